// One Chromium for all tests of a worker: it prints the address that a browser.mjs connects to, and ends with its standard input.
//     node chromium.mjs CHROMIUM
// Each that connects has contexts of its own, which end with its connection.
import { chromium } from "playwright-core";

const server = await chromium.launchServer({
  executablePath: process.argv[2],
  host: "127.0.0.1",
  timeout: Number(process.env.WITHIN ?? 120_000), // ms: long past anything but a hang
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--force-color-profile=srgb"],
});
console.log(server.wsEndpoint());
process.stdin.resume().once("end", () => server.close());
