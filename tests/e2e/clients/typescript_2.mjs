// A client on the TypeScript SDK 2.x: list → call → await_future → gather; prints what it got as one JSON object.
// Usage: node typescript_2.mjs CLIENT_FOLDER (legacy | auto) (http URL | stdio COMMAND ARGS...)
import { pathToFileURL } from "node:url";
import path from "node:path";

const [folder, mode, kind, target, ...args] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.join(folder, "dist", `${name}.mjs`)).href);

const { Client, StreamableHTTPClientTransport } = await load("index");
const { StdioClientTransport } = await load("stdio");
const transport =
  kind === "stdio"
    ? new StdioClientTransport({ command: target, args, env: process.env, stderr: "inherit" })
    : new StreamableHTTPClientTransport(new URL(target));
const client = new Client({ name: "typescript-sdk-2", version: "1.0.0" }, { versionNegotiation: { mode } });
await client.connect(transport);

let tools = [];
for (let tries = 0; tries < 300 && !tools.includes("toy__sleep"); tries += 1) {
  tools = (await client.listTools({}, { cacheMode: "refresh" })).tools.map((tool) => tool.name);
  await new Promise((resolve) => setTimeout(resolve, 50));
}
const futures = [];
for (const tag of ["a", "b", "c"]) {
  const handle = await client.callTool({ name: "toy__sleep", arguments: { seconds: 0.5, tag } });
  futures.push(handle._meta["asyncfc/futures"][0].future_id);
}
const beats = [];
const steps = await client.callTool({ name: "toy__progress", arguments: { steps: 4 } });
await client.callTool(
  { name: "await_future", arguments: { future_id: steps._meta["asyncfc/futures"][0].future_id } },
  { onprogress: (progress) => beats.push(progress.progress) },
);
const awaited = await client.callTool({ name: "await_future", arguments: { future_id: futures[0] } });
const gathered = await client.callTool({ name: "gather", arguments: { future_ids: futures } });
const broken = await client.callTool({ name: "toy__bad_schema", arguments: {} });
const version = client.getNegotiatedProtocolVersion?.() ?? null;
console.log(JSON.stringify({ tools, futures, awaited, gathered, broken, beats: beats.length, version }));
await client.close();
