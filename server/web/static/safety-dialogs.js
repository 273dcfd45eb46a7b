/**
 * Dialogs about keeping people away and keeping order: blocks, reports, and what admins of a group and moderators of the
 * service do. Fetched when the first of them is wanted.
 * @module
 */
import { h, replace, throttled } from "./dom.js";
import { ask, openDialog } from "./dialog.js";
import { explained } from "./explained.js";
import { field, select } from "./group-settings.js";
import { summaryOf } from "./message-view.js";
import { avatar } from "./people.js";
import { agoOf, isolated, untilOf } from "./text.js";

const CATEGORIES = [["Spam", "Spam"], ["Harassment", "Harassment"], ["Hate", "Hate"], ["Violence", "Violence or threats"], ["Sexual", "Sexual content"], ["SelfHarm", "Somebody may harm themselves"], ["Other", "Something else"]];
const TERMS = [["3600", "An hour"], ["86400", "A day"], ["604800", "A week"], ["2592000", "30 days"], ["", "For good"]];
const DECISIONS = [["", "Nothing"], ["DeleteMessage", "Delete the message"], ["BanUser", "Ban from this service"]];
const SHOWN = 50; // reports at once

const aboutOf = ({ messageId, category }) => `${messageId ? "A message" : "The person"}: ${CATEGORIES.find(([name]) => name === category)?.[1] ?? category}`;
const untilIn = (seconds) => (seconds ? new Date(Date.now() + Number(seconds) * 1000) : null);

// -- blocks -----------------------------------------------------------------------------------------------------

export function block({ chat, people, say }, userId) {
  ask({
    title: "Block",
    text: [h("bdi", { text: people.nameOf(userId) }), " can no longer write to you alone or add you to groups, and neither of you sees when the other is here. They do not learn it. In groups that both of you are in, you go on to see each other."],
    action: "Block",
    run: async () => {
      await chat.block(userId);
      say("Blocked.");
    },
  });
}

// -- reports ----------------------------------------------------------------------------------------------------

export function report({ chat, people, say }, userId, message) {
  const name = people.nameOf(userId);
  const why = select("report-category", CATEGORIES, "Spam");
  const comment = h("textarea", { id: "report-comment", rows: 3, maxLength: 1000, dir: "auto" });
  const isBlocked = chat.isBlocked(userId);
  const also = isBlocked ? null : h("input", { type: "checkbox" });
  const what = message ? h("p", { class: "quoted", dir: "auto", text: summaryOf(message, people) }) : h("p", {}, h("bdi", { text: name }));
  const dialog = openForm({
    say, title: message ? "Report this message" : "Report",
    about: message ? [message.id, message.conversationId] : [],
    action: "Report",
    content: [what, h("p", { class: "muted", text: "It goes to the moderators of this service, with your name. Who is reported does not learn it." }),
      field(why, "Why"), field(comment, "Say more", "(optional)"), also && h("label", { class: "choice" }, also, h("span", {}, "Also block ", h("bdi", { text: name })))],
    run: async () => {
      await chat.report({ category: why.value, comment: comment.value.trim() || undefined, ...(message ? { messageId: message.id } : { userId }) });
      if (also?.checked) await chat.block(userId);
      say("Reported. The moderators of this service will look at it.");
    },
  });
  dialog.querySelector("select").focus();
}

// -- admins and moderators --------------------------------------------------------------------------------------

export function mute({ people, say }, conversation, userId) {
  const name = people.nameOf(userId);
  restrict(say, {
    title: "Mute in this group", about: [conversation.id], term: "86400", action: "Mute",
    text: [h("bdi", { text: name }), " reads along, and neither sends, edits nor reacts. All members see that they are muted."],
    run: (options) => conversation.muteMember(userId, options),
    other: { text: "End their mute", run: () => conversation.unmuteMember(userId) },
  });
}

export function keepOut({ people, say }, conversation, userId) {
  restrict(say, {
    title: "Remove and keep out", about: [conversation.id], term: "", action: "Remove and keep out", isDanger: true,
    text: [h("bdi", { text: people.nameOf(userId) }), " is removed from the group, and neither a link nor anybody lets them in before. What they have written stays."],
    run: (options) => conversation.keepOut(userId, options),
  });
}

export function ban({ chat, people, say }, userId) {
  restrict(say, {
    title: "Ban from this service", term: "604800", action: "Ban", isDanger: true,
    text: [h("bdi", { text: people.nameOf(userId) }), " is signed out everywhere, and cannot sign in before that is over."],
    run: (options) => chat.ban(userId, options),
    other: { text: "Lift their ban", run: () => chat.unban(userId) },
  });
}

function restrict(say, { text, term, run, ...form }) {
  const terms = select("restrict-term", TERMS, term);
  const reason = h("input", { id: "restrict-reason", maxLength: 512, dir: "auto", autocomplete: "off" });
  const dialog = openForm({
    ...form, say,
    content: [h("p", {}, text), field(terms, "For how long"), field(reason, "Reason", "(optional, for the log of this service)")],
    run: async () => {
      await run({ until: untilIn(terms.value), reason: reason.value.trim() || undefined });
      say("Done.");
    },
  });
  dialog.querySelector("select").focus();
}

/** A form in a dialog: what is refused is said in it. `other` is another act, at a button beside the first. */
function openForm({ title, about, content, action, run, isDanger, other, say }) {
  const problem = h("p", { class: "problem", role: "alert" });
  const yes = h("button", { type: "submit", class: isDanger ? "danger" : "primary", text: action });
  const attempt = async (act) => {
    problem.textContent = "";
    yes.disabled = true;
    try {
      await act();
      dialog.close();
    } catch (error) {
      problem.textContent = explained(error);
      yes.disabled = false;
    }
  };
  const second = other && h("button", { type: "button", text: other.text, on: { click: () => void attempt(async () => (await other.run(), say("Done."))) } });
  const form = h("form", { class: "stack", on: { submit: (event) => (event.preventDefault(), void attempt(run)) } }, content, problem, h("footer", {}, second, yes));
  const dialog = openDialog({ title, about, content: form });
  return dialog;
}

/** Who is kept out of a group, and may be let in again. */
export function showKeptOut(context, conversation) {
  const { people } = context;
  const entry = ({ userId, until, createdBy }) => [userId, [`By ${isolated(people.nameOf(createdBy))}`, `${untilOf(until, "Until ") || "For good"}`]];
  openList(context, {
    title: "Kept out of this group", about: [conversation.id], none: "No one is kept out.", action: "Let in again",
    read: async (signal) => (await conversation.keptOut({ signal })).items.map(entry),
    act: (userId) => conversation.letIn(userId),
  });
}

// -- reports, for moderators of the service ---------------------------------------------------------------------

/** The reports that wait for a decision, the oldest first. */
export function showOpenReports(context) {
  const { chat, people } = context;
  const stop = new AbortController();
  const { signal } = stop;
  let found = [];
  let next = null;
  const status = h("p", { class: "muted", role: "status", text: "Looking …" });
  const list = h("ul", { class: "members", "aria-label": "Reports" });
  const more = h("button", { type: "button", text: "Show more", hidden: true, data: { focus: "more-reports" }, on: { click: () => void look(next) } });
  const paint = () => {
    if (signal.aborted) return;
    const before = list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    replace(list, found.map((report) => h("li", { class: "report" }, shownOf(report, people),
      h("div", { class: "report-foot" }, h("small", { class: "muted", text: `By ${isolated(people.nameOf(report.reporterId))} · ${agoOf(report.createdAt)}` }),
        h("button", { type: "button", text: "Decide", "aria-label": `Decide: ${aboutOf(report)}, ${people.nameOf(report.userId)}`, data: { focus: `k-${report.id}` }, on: { click: () => decide(context, report, (said) => leave(report, said)) } })))));
    if (before) (list.querySelector(`[data-focus="${CSS.escape(before)}"]`) ?? list.querySelector("button") ?? dialog.querySelector("button")).focus();
  };
  const say = (said = "") => (status.textContent = [said, found.length ? "" : next ? "There are more." : "No report waits for a decision."].filter(Boolean).join(" "));
  const later = throttled(paint); // somebody may be about to press one of them
  const leave = (report, said) => {
    found = found.filter((each) => each !== report);
    say(said);
    paint();
    (list.querySelector("button") ?? dialog.querySelector("button")).focus(); // that one is there no more
  };
  const look = async (cursor = null) => {
    more.disabled = true;
    try {
      const page = await chat.reports({ state: "Open", limit: SHOWN, cursor, signal });
      found = [...found, ...page.items];
      next = page.next;
      more.hidden = !next;
      say();
      later();
    } catch (error) {
      if (!signal.aborted) replace(status, `That could not be read: ${explained(error)} `, h("button", { type: "button", class: "link", text: "Try again", on: { click: () => void look(cursor) } }));
    }
    more.disabled = false;
  };
  people.addEventListener("change", later, { signal }); // names
  const dialog = openDialog({ title: "Reports", content: [status, list, more], onClose: () => stop.abort() });
  void look();
}

/** Whom or what a report is about, what it said then, and what its reporter says of it. */
function shownOf(report, people) {
  return [
    h("p", {}, h("b", {}, h("bdi", { text: people.nameOf(report.userId) })), ` · ${aboutOf(report)}`),
    report.messageId && h("p", { class: "quoted", dir: "auto", text: report.content ?? "What it said is not there any more." }),
    report.comment && h("p", { dir: "auto", text: report.comment }),
  ];
}

function decide({ chat, people, say }, report, onDecided) {
  const act = select("decide-act", DECISIONS.filter(([name]) => name !== "DeleteMessage" || report.messageId), "");
  const terms = select("decide-term", TERMS, "604800");
  const term = h("div", { class: "stack", hidden: true }, field(terms, "For how long"));
  act.addEventListener("change", () => (term.hidden = act.value !== "BanUser"));
  const note = h("textarea", { id: "decide-note", rows: 2, maxLength: 1000, dir: "auto" });
  let said = null;
  const dialog = openForm({
    say, title: "Decide on this report", about: [], action: "Decide",
    content: [shownOf(report, people), field(act, "What is done"), term, field(note, "Note", "(optional, for other moderators)")],
    run: async () => {
      const until = act.value === "BanUser" ? untilIn(terms.value) : undefined;
      const decided = await chat.resolveReport(report.id, { act: act.value || undefined, until, note: note.value.trim() || undefined });
      said = decided.resolvedBy === people.me.id ? "Decided." : "Another moderator had decided on it already.";
    },
  });
  dialog.addEventListener("close", () => said && onDecided(said));
  act.focus();
}

// -- one's own settings -----------------------------------------------------------------------------------------

/** The people whom one has blocked, and what one has reported: for the settings. */
export function showBlocked(context) {
  const { chat } = context;
  openList(context, {
    title: "Blocked people", none: "You have blocked no one.", action: "Unblock", changes: "blocks",
    read: async (signal) => (await chat.blocks({ signal })).map(({ userId, createdAt }) => [userId, [`Blocked ${agoOf(createdAt)}`]]),
    act: (userId) => chat.unblock(userId),
  });
}

export function showReports(context) {
  const { chat } = context;
  openList(context, {
    title: "What you have reported", none: "You have reported nothing.",
    read: async (signal) => (await chat.ownReports({ limit: SHOWN, signal })).items.reverse().map((each) => [each.userId,
      [aboutOf(each), `${agoOf(each.createdAt)} · ${each.state === "Open" ? "Waits for the moderators" : "The moderators have decided"}`]]),
  });
}

/** People in a dialog, each with lines, and a button where something can be done about it. */
function openList({ chat, people }, { title, about, none, action, read, act, changes }) {
  const stop = new AbortController();
  const { signal } = stop;
  let found = [];
  const status = h("p", { class: "muted", role: "status", text: "Looking …" });
  const problem = h("p", { class: "problem", role: "alert" });
  const list = h("ul", { class: "members", "aria-label": title });
  const paint = () => {
    if (signal.aborted) return;
    const before = list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    replace(list, found.map(([userId, lines]) => h("li", { class: "member" }, avatar(people.nameOf(userId), userId),
      h("span", { class: "option-text" }, h("bdi", { text: people.nameOf(userId) }), lines.map((text) => h("small", { text }))),
      act && h("button", { type: "button", text: action, "aria-label": `${action}: ${people.nameOf(userId)}`, data: { focus: `k-${userId}` }, on: { click: (event) => void undo(userId, event.target) } }))));
    if (before) (list.querySelector(`[data-focus="${CSS.escape(before)}"]`) ?? list.querySelector("button") ?? dialog.querySelector("button")).focus();
  };
  const look = async () => {
    try {
      found = await read(signal);
      status.textContent = found.length ? "" : none;
      paint();
    } catch (error) {
      if (!signal.aborted) replace(status, `That could not be read: ${explained(error)} `, h("button", { type: "button", class: "link", text: "Try again", on: { click: () => void look() } }));
    }
  };
  const undo = async (userId, button) => {
    button.disabled = true;
    problem.textContent = "";
    try {
      await act(userId);
      await look();
      (list.querySelector("button") ?? dialog.querySelector("button")).focus(); // that one is there no more
    } catch (error) {
      if (signal.aborted) return;
      problem.textContent = explained(error);
      button.disabled = false;
    }
  };
  if (changes) chat.on(changes, () => void look(), { signal });
  people.addEventListener("change", throttled(paint), { signal }); // names
  const dialog = openDialog({ title, about, content: [status, problem, list], onClose: () => stop.abort() });
  void look();
}
