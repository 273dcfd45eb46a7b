// One conversation, on the hooks beside this file: http://localhost:8000/#token=TOKEN&with=USER_ID
import { memo } from "react";
import { createRoot } from "react-dom/client";
import { IndexedDBStore, Parley } from "@parley/client";
import { useConnection, useMessages } from "./use-parley.js";

const Message = memo(({ message }) => (
  <li>
    {message.content} {message.isOwn && <small>{message.status}</small>}
  </li>
));

function Conversation({ chat, conversation }) {
  const messages = useMessages(conversation).filter(({ type }) => type === "Text");
  const send = (event) => {
    event.preventDefault();
    const { value } = event.target.elements.text;
    if (value.trim()) conversation.send(value); // it is in `messages` at once, and stays there until it has arrived
    event.target.reset();
  };
  return (
    <main>
      <p>{useConnection(chat)}</p>
      <ol>{messages.map((message) => <Message key={message.key} message={message} />)}</ol>
      <form onSubmit={send}>
        <input name="text" aria-label="Message" autoComplete="off" /> <button>Send</button>
      </form>
    </main>
  );
}

const { token, with: other, server = "http://localhost:5000" } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
// The chat lives beside React, not in an effect: a component that comes and goes does not reconnect.
const chat = await Parley.connect({ url: server, token: () => token, store: new IndexedDBStore("react") });
const conversation = await chat.createDirect(other);
if (!conversation.messages.length) conversation.loadOlder().catch(console.warn); // what was said before, unless the store has it
createRoot(document.querySelector("#root")).render(<Conversation chat={chat} conversation={conversation} />);
