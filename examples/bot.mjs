// A bot that rolls dice: it answers "roll 2d6" in whatever conversation it is in.
//   npm install ../clients/javascript && node bot.mjs http://localhost:5000 TOKEN
// Each question is answered once, whether the server dies in the middle or the bot.
import { randomInt } from "node:crypto";
import { FileStore, Parley } from "@parley/client";

const [url, token] = process.argv.slice(2);
// The store has what the bot has seen and what it has not sent yet: started again, it goes on from there.
const onState = ({ state, reason }) => console.log(reason ? `(${state}: ${reason.message})` : `(${state})`);
const chat = await Parley.connect({ url, token: () => token, store: new FileStore("bot.json"), onState });

// `message` comes once for each new message, in order, and not for what this client sends.
chat.on("message", ({ conversation, message }) => {
  const [, count, sides] = /^roll (\d{1,2})d(\d{1,4})$/i.exec(message.content) ?? [];
  if (message.type !== "Text" || !(count > 0) || !(sides > 0)) return;
  const dice = Array.from({ length: count }, () => randomInt(1, Number(sides) + 1));
  // Two answers with one clientMessageId are one message: a bot that has forgotten that it answered may do it again.
  conversation.send(`${dice.join(" + ")} = ${dice.reduce((sum, one) => sum + one)}`, {
    replyToId: message.id,
    clientMessageId: `rolled-${message.id}`,
  });
});
chat.on("failed", ({ message, error }) => console.error(`not sent: ${message.content}: ${error.message}`));
console.log(`I am ${(await chat.me()).username}`);
