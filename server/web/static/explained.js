/**
 * What errors say to people, where the server's sentence is for programs, or has a time in it. Others keep their sentence.
 * @module
 */
import { untilOf } from "./text.js";

const SENTENCES = {
  banned: ({ until }) => `This account is banned${untilOf(until)}.`,
  muted: ({ until }) => `You are muted in this conversation${untilOf(until)}.`,
  kept_out: ({ until }) => `You were removed from this group, and cannot come back${untilOf(until, " before ")}.`,
  recipient_unavailable: () => "Somebody here takes nothing from you at present.",
  posting_forbidden: () => "Only admins and owners send messages in this group.",
  slow_mode: () => "The group is in slow mode: wait a little.",
  last_owner: () => "A group keeps an owner: make somebody else an owner first.",
};

/** @param {{code?: string, message: string, until?: string}} error */
export const explained = (error) => SENTENCES[error.code]?.(error) ?? error.message;
