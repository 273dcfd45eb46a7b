// Node's `ws`, for `make bench` to measure beside Parley: a message that starts with B goes to everybody, anything else
// is echoed. node ws.js PORT
"use strict";
const { WebSocketServer } = require("ws");

const BROADCAST = "B".charCodeAt(0);
const server = new WebSocketServer({ port: Number(process.argv[2]), host: "127.0.0.1" });

server.on("connection", (client) => {
  client.on("error", () => client.terminate());
  client.on("message", (data, isBinary) => {
    if (data[0] !== BROADCAST) {
      client.send(data, { binary: isBinary });
      return;
    }
    for (const each of server.clients) each.send(data, { binary: isBinary });
  });
});
