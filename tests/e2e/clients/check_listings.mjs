// Which of the listings on standard input the TypeScript SDKs refuse, 1.x and 2.x, as one JSON list of reasons.
// Usage: node check_listings.mjs NODE_MODULES < [{kind, modern, entry}, ...]
import { readFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules] = process.argv.slice(2);
const load = (...parts) => import(pathToFileURL(path.join(modules, "@modelcontextprotocol", ...parts)).href);
const one = await load("sdk", "dist", "esm", "types.js");
const { AjvJsonSchemaValidator } = await load("sdk", "dist", "esm", "validation", "ajv-provider.js");
const two = await load("core", "dist", "index.mjs");
const schemas = {
  tools: "ListToolsResultSchema",
  prompts: "ListPromptsResultSchema",
  resources: "ListResourcesResultSchema",
  resourceTemplates: "ListResourceTemplatesResultSchema",
};
console.warn = console.error = () => {};  // what Ajv says of formats that it does not have

const refused = [];
for (const { kind, modern, entry } of JSON.parse(readFileSync(0, "utf8"))) {
  const result = { resultType: "complete", ttlMs: 0, cacheScope: "private", [kind]: [entry] };
  for (const [version, sdk] of Object.entries(modern ? { two } : { one, two })) {
    const checked = sdk[schemas[kind]].safeParse(result);
    if (!checked.success) refused.push({ version, entry, why: checked.error.issues });
  }
  if (entry.outputSchema && !modern) {
    try {
      new AjvJsonSchemaValidator().getValidator(entry.outputSchema);
    } catch (error) {
      refused.push({ version: "one", entry, why: String(error) });
    }
  }
}
console.log(JSON.stringify(refused));
