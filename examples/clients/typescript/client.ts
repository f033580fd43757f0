// A plain TypeScript client of the bridge, on the official SDK, without any framework.
//
//     npm install && npm start     in this folder, with asyncfc-mcp on the PATH
//
// No model takes part: `turn` is what one would ask for in one turn. With a real model, pass it the tools of
// `listTools()`, and take the calls from its answer in place of `turn`.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { getDefaultEnvironment, StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import type { CallToolResult } from "@modelcontextprotocol/sdk/types.js";

const turn: { name: string; arguments: Record<string, unknown> }[] = [
  { name: "travel__search_flights", arguments: { origin: "Berlin", destination: "Lisbon", _as: "flights" } },
  { name: "travel__search_hotels", arguments: { city: "Lisbon", _as: "hotels" } },
  { name: "travel__weather", arguments: { city: "Lisbon", _as: "sky" } },
  {
    // The cheapest of the flights that the first call is still looking for, and a wait for everything.
    name: "travel__hold_seat",
    arguments: {
      flight_id: "$flights.flights | min_by(@, &price).id",
      _as: "seat",
      _wait: "flights, hotels, sky, seat",
    },
  },
];

const client = new Client({ name: "my-agent", version: "1" });
await client.connect(
  new StdioClientTransport({
    command: "asyncfc-mcp",
    args: ["serve", "--config", "examples/config.json"],
    cwd: process.env.CLONE ?? "../../..",
    env: { ...getDefaultEnvironment(), ...(process.env as Record<string, string>) },
  }),
);
console.log("tools:", (await client.listTools()).tools.map((tool) => tool.name).join(", "));

const began = performance.now();
// One call after another: each but the last is answered at once, so they overlap all the same.
for (const call of [...turn, { name: "list_futures", arguments: {} }]) {
  const answer = (await client.callTool(call)) as CallToolResult;
  console.log(`${((performance.now() - began) / 1000).toFixed(1).padStart(5)} s  ${call.name}`);
  for (const block of answer.content) {
    if (block.type === "text") console.log(block.text.replace(/^/gm, " ".repeat(11)));
  }
}
await client.close();
