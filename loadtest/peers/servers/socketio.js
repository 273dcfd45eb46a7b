// Socket.IO + node-postgres: direct messages, each committed before it is answered and delivered.
// Arguments: port, directory of PostgreSQL's (and Valkey's) socket, database, directory of the SQL.
// In a worker of `socketio_two.js` it sends the other one what it delivers.
const cluster = require("node:cluster");
const { randomUUID } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { createServer } = require("node:http");
const { Pool } = require("pg");
const { Server } = require("socket.io");

const [port, host, database, sql] = process.argv.slice(2);
const SEND = readFileSync(`${sql}/send.sql`, "utf8");
const AGAIN = readFileSync(`${sql}/again.sql`, "utf8");
const UNIQUE_VIOLATION = "23505";
const HOUR = 3_600_000;

const pool = new Pool({ host, database, user: "postgres", port: 5432, max: 10 });
const http = createServer();
// Pings are put off: they would be counted as deliveries.
const io = new Server(http, { transports: ["websocket"], pingInterval: HOUR, pingTimeout: HOUR, serveClient: false });

async function join() {
  const { createAdapter } = require("@socket.io/redis-adapter");
  const { createClient } = require("redis");
  const publisher = createClient({ socket: { path: `${host}/valkey.sock` } });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  io.adapter(createAdapter(publisher, subscriber));
}

async function commit(user, message) {
  const values = [message.conversationId, user, randomUUID(), message.clientMessageId, message.content];
  try {
    return await pool.query({ name: "send", text: SEND, values });
  } catch (error) {
    if (error.code !== UNIQUE_VIOLATION) throw error;
    return await pool.query(AGAIN, [user, message.clientMessageId]);
  }
}

io.on("connection", async (socket) => {
  const user = Number(socket.handshake.query.user);
  socket.on("send", async (message, answer) => {
    const { rows } = await commit(user, message);
    if (rows.length === 0) return answer({ error: "forbidden" });
    const { id, seq, created_at: createdAt } = rows[0];
    const { conversationId, content, clientMessageId } = message;
    const whole = { id, conversationId, seq: Number(seq), senderId: user, content, clientMessageId, createdAt };
    answer(whole);
    io.to(`c${conversationId}`).emit("message", whole);
  });
  const mine = await pool.query("select conversation_id from members where user_id = $1", [user]);
  for (const row of mine.rows) socket.join(`c${row.conversation_id}`);
  socket.emit("ready");
});

if (cluster.isWorker) {
  process.on("message", (_, connection) => http.emit("connection", connection) && connection.resume());
  join().then(() => process.send("ready"));
} else {
  http.listen(Number(port), "127.0.0.1");
}
