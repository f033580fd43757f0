// A client on the TypeScript SDK 1.x that signs in by itself (OAuth), then lists tools and calls some; prints one JSON object.
// Usage: node oauth_typescript.mjs NODE_MODULES PYTHON BROWSER_SCRIPT URL LOGIN < [[TOOL, ARGUMENTS], ...]
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, python, browser, url, login] = process.argv.slice(2);
const sdk = path.join(modules, "@modelcontextprotocol", "sdk", "dist", "esm", "client");
const load = (name) => import(pathToFileURL(path.join(sdk, `${name}.js`)).href);
const { Client } = await load("index");
const { StreamableHTTPClientTransport } = await load("streamableHttp");
const { UnauthorizedError } = await load("auth");

const kept = {};
let redirected;
const authProvider = {
  redirectUrl: "http://127.0.0.1:3031/callback",
  clientMetadata: {
    redirect_uris: ["http://127.0.0.1:3031/callback"],
    client_name: "typescript-sdk",
    token_endpoint_auth_method: "none",
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    scope: "mcp",  // oidc-provider denies a request for no scope at all
  },
  clientInformation: () => kept.client,
  saveClientInformation: (client) => { kept.client = client; },
  tokens: () => kept.tokens,
  saveTokens: (tokens) => { kept.tokens = tokens; },
  saveCodeVerifier: (verifier) => { kept.verifier = verifier; },
  codeVerifier: () => kept.verifier,
  redirectToAuthorization: (to) => {
    redirected = execFileSync(python, [browser, "--login", login, String(to)], { encoding: "utf8" }).trim();
  },
};
const calls = JSON.parse(readFileSync(0, "utf8"));
const transport = () => new StreamableHTTPClientTransport(new URL(url), { authProvider });
let client = new Client({ name: "typescript-sdk-1", version: "1.0.0" });
const first = transport();
try {
  await client.connect(first);
} catch (error) {
  if (!(error instanceof UnauthorizedError)) throw error;
  await first.finishAuth(new URL(redirected).searchParams.get("code"));
  client = new Client({ name: "typescript-sdk-1", version: "1.0.0" });
  await client.connect(transport());
}
let tools = [];
for (let tries = 0; tries < 600 && !calls.every(([name]) => tools.includes(name)); tries += 1) {
  tools = (await client.listTools()).tools.map((tool) => tool.name);
  await new Promise((resolve) => setTimeout(resolve, 50));
}
const results = [];
for (const [name, args] of calls) results.push(await client.callTool({ name, arguments: args }));
console.log(JSON.stringify({ tools, results, token: kept.tokens.access_token, redirected: Boolean(redirected) }));
await client.close();
