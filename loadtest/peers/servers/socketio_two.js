// Two processes of `socketio.js` on one port: each connection goes to one by its own port, as the kernel divides Parley's, so
// half of the pairs have their sides in different ones. When one ends, so does the whole.
const cluster = require("node:cluster");
const { createHash } = require("node:crypto");
const { createServer } = require("node:net");

if (cluster.isPrimary) {
  const workers = [cluster.fork(), cluster.fork()];
  const server = createServer({ pauseOnConnect: true }, (connection) => {
    const [byte] = createHash("md5").update(String(connection.remotePort)).digest();
    workers[byte % 2].send("connection", connection);
  });
  let ready = 0;
  cluster.on("message", () => ++ready === workers.length && server.listen(Number(process.argv[2]), "127.0.0.1"));
  const end = () => workers.forEach((worker) => worker.process.kill("SIGKILL"));
  process.on("SIGTERM", end);
  cluster.on("exit", () => (Object.keys(cluster.workers).length ? end() : process.exit(1)));
} else {
  require("./socketio.js");
}
