// People with the official client, led by the test. Commands come in as JSON lines, [person, command, ...arguments];
// what happens goes out as JSON lines, {person, event, value}. The commands of one person are done one after the other.
import readline from "node:readline";
import * as signalR from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const report = (person, event, value) =>
  process.stdout.write(JSON.stringify({ person, event, value: value ?? null }) + "\n");

function build(person, { url, token, protocol, negotiate, transport }) {
  let builder = new signalR.HubConnectionBuilder()
    .withUrl(url, {
      accessTokenFactory: () => token,
      transport: signalR.HttpTransportType[transport],
      skipNegotiation: negotiate === "skip",
    })
    .withAutomaticReconnect({ nextRetryDelayInMilliseconds: () => 100 })
    .configureLogging(signalR.LogLevel.None);
  if (protocol === "messagepack") builder = builder.withHubProtocol(new MessagePackHubProtocol());
  if (negotiate === "stateful") builder = builder.withStatefulReconnect();
  const connection = builder.build();
  for (const name of ["ReceiveMessage", "MessageChanged", "ConversationChanged", "ConversationRemoved", "Error"])
    connection.on(name, (...values) => report(person, name, values));
  connection.onreconnecting(() => report(person, "reconnecting"));
  connection.onreconnected(() => report(person, "reconnected"));
  connection.onclose((error) => report(person, "closed", error && error.message));
  return connection;
}

const commands = {
  invoke: (connection, name, ...args) => connection.invoke(name, ...args),
  send: (connection, name, ...args) => connection.send(name, ...args),
  stream: (connection, limit, name, ...args) =>
    new Promise((resolve, reject) => {
      const items = [];
      const subscription = connection.stream(name, ...args).subscribe({
        next: (item) => {
          items.push(item);
          if (items.length === limit) {
            subscription.dispose();
            resolve(items);
          }
        },
        complete: () => resolve(items),
        error: reject,
      });
    }),
  stop: (connection) => connection.stop(),
};

const people = new Map();
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [person, command, ...args] = JSON.parse(line);
  if (command === "connect") {
    const connection = build(person, args[0]);
    const done = connection.start().then(
      () => report(person, "connected", connection.connectionId),
      (error) => report(person, "refused", error.message),
    );
    people.set(person, { connection, done });
  } else {
    const one = people.get(person);
    one.done = one.done.then(() => commands[command](one.connection, ...args)).then(
      (value) => report(person, command === "send" ? "sent" : "result", value),
      (error) => report(person, "failed", error.message),
    );
  }
}
process.exit(0);
