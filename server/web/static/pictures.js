/**
 * Files of messages: their links, which are good for some minutes, pictures in the list and large, and saving.
 * @module
 */
import { h, iconButton, replace } from "./dom.js";
import { openDialog } from "./dialog.js";
import { fileName, sizeOf } from "./text.js";

const MARGIN = 30_000; // ms before its end at which a link is asked for anew
const MOST_BROKEN = 200; // pictures that are tried once more

export class Pictures {
  #chat;
  #say;
  #links = new Map();
  #own = new Map();
  #broken = new Map(); // those that could not be shown: how to try once more

  constructor(chat, say) {
    this.#chat = chat;
    this.#say = say;
    chat.on("state", ({ state }) => state === "live" && this.#mend());
  }

  /** A picture of one's own that was just sent is here already. */
  keep(fileId, blob) {
    if (this.#own.size > 50) return;
    this.#own.set(fileId, URL.createObjectURL(blob));
  }

  async #link(file) {
    const known = this.#links.get(file.key);
    if (known && new Date(known.expiresAt) - Date.now() > MARGIN) return known.url;
    const found = await this.#chat.files.link(file);
    this.#links.set(file.key, found);
    return found.url;
  }

  /** Show the picture in this element; a link that has ended meanwhile is replaced once. */
  async paint(image, file) {
    const own = this.#own.get(file.id);
    if (own) {
      image.src = own;
      return;
    }
    let isSecond = false;
    const paint = () => this.#link(file).then((url) => (image.src = url), fail);
    const fail = () => {
      image.closest(".picture")?.classList.add("broken");
      this.#broken.set(image, () => ((isSecond = false), paint()));
      if (this.#broken.size > MOST_BROKEN) this.#broken.delete(this.#broken.keys().next().value);
    };
    image.addEventListener("error", () => {
      this.#links.delete(file.key);
      if (isSecond) return fail();
      isSecond = true;
      void paint();
    });
    await paint();
  }

  /** There is a connection again: what failed without it is there now. */
  #mend() {
    const broken = [...this.#broken];
    this.#broken.clear();
    for (const [image, again] of broken) {
      if (!image.isConnected) continue;
      image.closest(".picture")?.classList.remove("broken");
      void again();
    }
  }

  show(file, { id, conversationId }) {
    const name = fileName(file.name);
    const image = h("img", { alt: name });
    const dialog = openDialog({
      label: name,
      about: [id, conversationId],
      class: "viewer",
      content: [
        h("div", { class: "viewer-bar" }, h("bdi", { class: "file-name", text: name }), h("small", { text: sizeOf(file.size) }),
          iconButton("download", "Save", () => this.save(file)), iconButton("close", "Close", () => dialog.close())),
        h("div", { class: "viewer-stage picture", on: { click: ({ target }) => target !== image && dialog.close() } }, image),
      ],
    });
    void this.paint(image, file);
  }

  async save(file) {
    try {
      const link = h("a", { href: await this.#link(file), download: file.name, rel: "noopener noreferrer" });
      document.body.append(link);
      link.click();
      link.remove();
    } catch (error) {
      this.#say(`The file could not be fetched: ${error.message}`);
    }
  }
}
