// Converts tool schemas as hosts on npm packages do, without any network: requests are built and kept, not sent.
// Standard input: {"schemas": [...]}; output: converter -> list of {"body": ...} or {"error": "..."}, one per schema.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [, , packages, llama] = process.argv;
const require = createRequire(`${packages}/package.json`);

const { createGoogleGenerativeAI } = require("@ai-sdk/google");
const { createOpenAI } = require("@ai-sdk/openai");
const { createAnthropic } = require("@ai-sdk/anthropic");
const { GoogleGenAI, mcpToTool } = require("@google/genai");
const { SchemaConverter } = await import(pathToFileURL(llama));

class Sent extends Error {
  constructor(body) {
    super("kept");
    this.body = body;
  }
}

const keep = async (_url, init) => {
  throw new Sent(JSON.parse(init.body));
};

const sentBy = async (run) => {
  try {
    await run();
  } catch (error) {
    for (let cause = error; cause; cause = cause.cause) if (cause instanceof Sent) return cause.body;
    throw error;
  }
  throw new Error("nothing was sent");
};

const prompt = [{ role: "user", content: [{ type: "text", text: "hello" }] }];
const key = { apiKey: "none", fetch: keep };

const aiSdk = (model) => async (inputSchema) =>
  (
    await sentBy(() =>
      model.doGenerate({ prompt, tools: [{ type: "function", name: "t", description: "d", inputSchema }] }),
    )
  ).tools[0];

const genai = new GoogleGenAI({ apiKey: "none" });
const withGenai = (tool) =>
  sentBy(() => genai.models.generateContent({ model: "gemini-2.5-flash", contents: "hello", config: { tools: [tool] } }));

const converters = {
  "ai-sdk google": async (schema) =>
    (await aiSdk(createGoogleGenerativeAI(key)("gemini-2.5-flash"))(schema)).functionDeclarations[0],
  "ai-sdk openai": aiSdk(createOpenAI(key).chat("gpt-5")),
  "ai-sdk openai responses": aiSdk(createOpenAI(key).responses("gpt-5")),
  "ai-sdk anthropic": aiSdk(createAnthropic(key)("claude-sonnet-4-5")),
  // With `$schema` it would send the schema unconverted.
  "google-genai npm": async ({ $schema, ...schema }) =>
    (await withGenai({ functionDeclarations: [{ name: "t", parameters: schema }] })).tools[0].functionDeclarations[0],
  "google-genai npm mcp": async (schema) => {
    const client = { listTools: async () => ({ tools: [{ name: "t", description: "d", inputSchema: schema }] }) };
    return (await mcpToTool(client).tool()).functionDeclarations[0];
  },
  "llama.cpp 2025": async (schema) => {
    const converter = new SchemaConverter({ prop_order: {} });
    const resolved = await converter.resolveRefs(schema, "input");
    converter.visit(resolved, "");
    return { grammar: converter.formatGrammar() };
  },
};

globalThis.fetch = keep;
const { schemas } = JSON.parse(readFileSync(0, "utf8"));
const results = {};
for (const [name, convert] of Object.entries(converters)) {
  results[name] = [];
  for (const schema of schemas) {
    try {
      results[name].push({ body: await convert(structuredClone(schema)) });
    } catch (error) {
      results[name].push({ error: `${error.name}: ${error.message}`.slice(0, 300) });
    }
  }
}
process.stdout.write(JSON.stringify(results));
