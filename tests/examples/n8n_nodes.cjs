// Runs the nodes of an n8n workflow in their order, with n8n's own MCP Client node; prints their outputs as JSON.
//
// Usage: node n8n_nodes.cjs FOLDER WORKFLOW, where FOLDER/node_modules has n8n's packages.
// Owns the little of n8n that a node sees: its parameters, checked by the node's own schema, and its input. n8n hands
// each node the output of the one before it when that has ended; so does this.

const { createRequire } = require("node:module");
const Module = require("node:module");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const [folder, file] = process.argv.slice(2);
const own = createRequire(join(folder, "node_modules", "x.js"));
const base = join(folder, "node_modules", "@n8n", "n8n-nodes-langchain", "dist");

// Packages of other nodes (proxies, credentials, configuration), which need hundreds more.
const stand_ins = {
  "@n8n/ai-utilities": {
    createRefreshingAuthFetch: ({ baseFetch }) => baseFetch,
    proxyFetch: ({ input, init }) => fetch(input, init),
  },
};
const load = Module._load;
Module._load = (name, ...rest) => stand_ins[name] ?? load(name, ...rest);

const { z } = own("zod");
const { Workflow } = own("n8n-workflow");
const { McpClient } = own(join(base, "nodes", "mcp", "McpClient", "McpClient.node.js"));
const text = z.string();
const helpers = {
  z,
  expressionSchema: z.string().regex(/^=/),
  stringOrExpression: text,
  numberOrExpression: z.number(),
  booleanOrExpression: z.boolean(),
  resourceMapperValueSchema: z.any(),
  iDataObjectSchema: z.record(z.any()),
  resolveSchema: ({ schema, displayOptions, parameters }) =>
    Object.entries(displayOptions.show).every(([key, values]) => values.includes(parameters[key])) ? schema : z.undefined(),
};

function checked(node) {
  const version = String(node.typeVersion).replace(".", "");
  const getSchema = own(join(base, "node-definitions", "nodes", "n8n-nodes-langchain", "mcpClient", `v${version}.schema.js`));
  const schema = getSchema({ ...helpers, parameters: node.parameters }).shape.parameters.unwrap().unwrap().strict();
  return schema.parse(node.parameters);
}

// n8n's own evaluation of what begins with "=".
function evaluated(workflow, node, items, outputs, value) {
  const runData = Object.fromEntries(
    Object.entries(outputs).map(([name, found]) => [name, [{ data: { main: [found.map((json) => ({ json }))] } }]]),
  );
  const data = { resultData: { runData } };
  return workflow.expression.getParameterValue(value, data, 0, 0, node.name, items, "manual", {});
}

async function run(workflow, node, items, outputs) {
  const parameters = checked(node);
  const defaults = Object.fromEntries(new McpClient().description.properties.map((each) => [each.name, each.default]));
  const known = { ...defaults, ...parameters };
  const surroundings = {
    getNode: () => node,
    getInputData: () => items,
    getExecutionCancelSignal: () => undefined,
    continueOnFail: () => false,
    getCredentials: async () => ({}),
    helpers: { getSecureEgressFilter: () => undefined },
    getNodeParameter: (name) => {
      const value = name.split(".").reduce((part, key) => part?.[key], known);
      return name === "jsonInput" ? JSON.parse(evaluated(workflow, node, items, outputs, value)) : value;
    },
  };
  const [output] = await McpClient.prototype.execute.call(surroundings);
  return output;
}

(async () => {
  const { nodes, connections } = JSON.parse(readFileSync(file, "utf8"));
  const named = Object.fromEntries(nodes.map((node) => [node.name, node]));
  const trigger = { description: { properties: [], inputs: [], outputs: ["main"] } };
  const nodeTypes = { getByNameAndVersion: (type) => (type.endsWith(".mcpClient") ? new McpClient() : trigger) };
  const workflow = new Workflow({ nodes: structuredClone(nodes), connections, active: false, nodeTypes });
  let name = nodes.find((node) => node.type === "n8n-nodes-base.manualTrigger").name;
  let items = [{ json: {} }];
  const outputs = { [name]: [{}] };
  while ((name = connections[name]?.main[0][0].node)) {
    items = await run(workflow, named[name], items, outputs);
    outputs[name] = items.map((item) => item.json);
  }
  console.log(JSON.stringify(outputs));
})();
