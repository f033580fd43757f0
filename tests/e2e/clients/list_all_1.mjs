// What a client on the TypeScript SDK 1.x gets of the four listings, as one JSON object: key → names, or an error.
// Usage: node list_all_1.mjs SDK_FOLDER COMMAND ARGS...
import path from "node:path";
import { pathToFileURL } from "node:url";

const [sdk, command, ...args] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.join(sdk, "dist", "esm", "client", `${name}.js`)).href);
const { Client } = await load("index");
const { StdioClientTransport } = await load("stdio");
const client = new Client({ name: "typescript-sdk-1", version: "1.0.0" });
await client.connect(new StdioClientTransport({ command, args, env: process.env, stderr: "inherit" }));
const report = {};
for (const [method, key] of [
  ["listTools", "tools"],
  ["listPrompts", "prompts"],
  ["listResources", "resources"],
  ["listResourceTemplates", "resourceTemplates"],
]) {
  report[key] = await client[method]().then((page) => page[key].map((each) => each.name), String);
}
console.log(JSON.stringify(report));
await client.close();
