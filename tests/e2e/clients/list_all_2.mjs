// What a client on the TypeScript SDK 2.x gets of the four listings, as one JSON object: key → names, or an error.
// Usage: node list_all_2.mjs CLIENT_FOLDER (legacy | auto) COMMAND ARGS...
import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, mode, command, ...args] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.join(folder, "dist", `${name}.mjs`)).href);
const { Client } = await load("index");
const { StdioClientTransport } = await load("stdio");
const client = new Client({ name: "typescript-sdk-2", version: "1.0.0" }, { versionNegotiation: { mode } });
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
