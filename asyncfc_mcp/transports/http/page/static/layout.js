// Where each call is in the time line: conversations, their servers, and lanes of calls that do not overlap. Pure: no
// page. A call keeps its lane while the page lives, so that bars do not jump when others end.

import { saved } from "./state.js";

export const LANE = 24;
export const HEADER = 30;
export const LABEL = 18;
const GAP = 10;
/** Seconds between two calls of one lane. */
const APART = 0.02;

/**
 * @typedef {import("./state.js").Entry} Entry
 * @typedef {{bars: Entry[]}} Lane
 * @typedef {{name: string, first: number, lanes: Lane[]}} Server
 * @typedef {{key: string, label: string, host: string, first: number, servers: Map<string, Server>, count: number,
 *   stale: boolean, saved: number}} Conversation
 * @typedef {{kind: "conversation"|"server"|"lane", y: number, h: number, conversation: Conversation, server?: Server,
 *   lane?: Lane, top?: boolean}} Row
 */

/** @param {Entry} entry */
export const endOf = (entry) => entry.ended_at ?? (entry.state === "cancelled" || entry.state === "failed" ? entry.submitted_at : Infinity);

/** @param {Entry} entry */
const conversationKey = (entry) => `${entry.host ?? ""}\n${entry.conversation ?? ""}`;

export class Lanes {
  constructor() {
    /** @type {Map<string, Conversation>} */
    this.conversations = new Map();
    /** @type {Map<string, {lane: Lane, conversation: Conversation}>} */
    this.places = new Map();
    /** Conversations that show their header only. @type {Set<string>} */
    this.collapsed = new Set();
  }

  /** Add a call, or take what has changed of it. @param {Entry} entry */
  put(entry) {
    const place = this.places.get(entry.id);
    if (place) {
      const { bars } = place.lane;
      const index = bars.findIndex((each) => each.id === entry.id);
      bars[index] = entry;
      place.conversation.stale = true;
      return;
    }
    const conversation = this._conversation(entry);
    const server = conversation.servers.get(entry.server) ?? { name: entry.server, first: entry.submitted_at, lanes: [] };
    conversation.servers.set(entry.server, server);
    server.first = Math.min(server.first, entry.submitted_at);
    conversation.first = Math.min(conversation.first, entry.submitted_at);
    conversation.count += 1;
    conversation.stale = true;
    let lane = server.lanes.find((each) => insert(each.bars, entry));
    if (!lane) {
      lane = { bars: [entry] };
      server.lanes.push(lane);
    }
    this.places.set(entry.id, { lane, conversation });
  }

  /** @param {Iterable<Entry>} entries */
  rebuild(entries) {
    this.conversations.clear();
    this.places.clear();
    for (const entry of [...entries].sort((a, b) => a.submitted_at - b.submitted_at)) this.put(entry);
  }

  /**
   * Rows from top to bottom: the newest conversation first, in it the servers in the order of their first calls.
   * @param {boolean} narrow labels of servers are rows of their own
   * @returns {{rows: Row[], height: number}}
   */
  rows(narrow) {
    /** @type {Row[]} */
    const rows = [];
    let y = 0;
    const conversations = [...this.conversations.values()].sort((a, b) => b.first - a.first);
    for (const conversation of conversations) {
      rows.push({ kind: "conversation", y, h: HEADER, conversation });
      y += HEADER;
      if (this.collapsed.has(conversation.key)) continue;
      for (const server of [...conversation.servers.values()].sort((a, b) => a.first - b.first)) {
        if (narrow) {
          rows.push({ kind: "server", y, h: LABEL, conversation, server });
          y += LABEL;
        }
        server.lanes.forEach((lane, index) => {
          rows.push({ kind: "lane", y, h: LANE, conversation, server, lane, top: index === 0 });
          y += LANE;
        });
      }
      y += GAP;
    }
    return { rows, height: y };
  }

  /** @param {Entry} entry */
  _conversation(entry) {
    const key = conversationKey(entry);
    let found = this.conversations.get(key);
    if (!found) {
      found = {
        key, label: entry.conversation ?? "", host: entry.host ?? "", first: entry.submitted_at, servers: new Map(), count: 0,
        stale: true, saved: 0,
      };
      this.conversations.set(key, found);
    }
    return found;
  }
}

/**
 * Seconds saved within a conversation, computed when its calls have changed.
 * @param {Conversation} conversation
 */
export function savedIn(conversation) {
  if (conversation.stale) {
    const bars = [];
    for (const server of conversation.servers.values()) for (const lane of server.lanes) bars.push(...lane.bars);
    conversation.saved = saved(bars);
    conversation.stale = false;
  }
  return conversation.saved;
}

/**
 * Put a call among those of a lane if it overlaps none of them.
 * @param {Entry[]} bars by time, without overlaps
 * @param {Entry} entry
 */
function insert(bars, entry) {
  const index = firstAfter(bars, entry.submitted_at);
  const before = bars[index - 1];
  const after = bars[index];
  if (before && endOf(before) + APART > entry.submitted_at) return false;
  if (after && endOf(entry) + APART > after.submitted_at) return false;
  bars.splice(index, 0, entry);
  return true;
}

/**
 * Index of the first bar that begins after `at`.
 * @param {Entry[]} bars
 * @param {number} at
 */
export function firstAfter(bars, at) {
  let low = 0;
  let high = bars.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (bars[middle].submitted_at > at) high = middle;
    else low = middle + 1;
  }
  return low;
}

/**
 * Index of the first row whose end is below `y`.
 * @param {Row[]} rows
 * @param {number} y
 */
export function rowAt(rows, y) {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].y + rows[middle].h > y) high = middle;
    else low = middle + 1;
  }
  return low;
}
