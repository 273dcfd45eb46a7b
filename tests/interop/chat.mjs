// A person with the official client, led by the test: commands come in as JSON lines, what happens goes out as JSON lines.
import readline from "node:readline";
import * as signalR from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const [url, token, protocol, negotiate, transport] = process.argv.slice(2);
const tell = (event, value) => process.stdout.write(JSON.stringify({ event, value: value ?? null }) + "\n");

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
  connection.on(name, (...values) => tell(name, values));
connection.onreconnecting(() => tell("reconnecting"));
connection.onreconnected(() => tell("reconnected"));
connection.onclose((error) => tell("closed", error && error.message));

const commands = {
  invoke: (name, ...args) => connection.invoke(name, ...args),
  send: (name, ...args) => connection.send(name, ...args),
  stream: (limit, name, ...args) =>
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
  stop: () => connection.stop(),
};

await connection.start().then(() => tell("connected", connection.connectionId), (error) => {
  tell("refused", error.message);
  process.exit(0);
});
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [command, ...args] = JSON.parse(line);
  await commands[command](...args).then((value) => tell(command === "send" ? "sent" : "result", value), (error) => tell("failed", error.message));
}
process.exit(0);
