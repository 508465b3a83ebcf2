// Sends photos to the API in small groups, a few groups at a time, and reports how far it is.

import { BUSY, isUnreadable, secondsToWait, texts } from "../shared.js";

const GROUP = 8; // photos in a request, at most
const PARALLEL = 3; // requests at a time
const SLOW = 8 * 2 ** 20; // bytes of several photos in a request, at most: a slow line must bring them in time
const TRIES = 5; // for a request that the server is too busy for, or does not get

export class Sender {
  #queue = [];
  #active = 0;
  #stop = new AbortController();
  #start = 0;

  /**
   * @param {number} limit bytes of a request
   * @param {number} most photos that the server takes in a request
   * @param {(item: object, answer: object) => void} onAnswer an answer is {caption, alternatives, …}, or {error, again}
   * @param {() => void} onProgress
   */
  constructor(limit, most, onAnswer, onProgress) {
    Object.assign(this, { limit, group: Math.min(GROUP, most), onAnswer, onProgress });
    this.reset();
  }

  get busy() {
    return this.#active > 0;
  }

  /** Photos per second since the first one was added. */
  get rate() {
    return this.done / ((performance.now() - this.#start) / 1000);
  }

  /** @param {{file: File, name: string, address: string}[]} items address: where it is sent */
  add(items) {
    if (!this.busy) this.reset();
    this.#queue.push(...items);
    this.total += items.length;
    while (this.#active < PARALLEL && this.#queue.length) {
      this.#active += 1;
      this.#work(this.#stop.signal);
    }
    this.onProgress();
  }

  cancel() {
    this.#queue.length = 0;
    this.#active = 0;
    this.#stop.abort();
    this.#stop = new AbortController();
    this.onProgress();
  }

  /** Counts from zero again. */
  reset() {
    Object.assign(this, { done: 0, failed: 0, total: 0 });
    this.#start = performance.now();
  }

  async #work(signal) {
    while (this.#queue.length) {
      const group = this.#nextGroup();
      const answers = await this.#send(group, signal);
      if (signal.aborted) return;
      group.forEach((item, index) => this.#report(item, answers[index]));
      this.onProgress();
    }
    this.#active -= 1;
    this.onProgress();
  }

  #report(item, answer) {
    this.done += 1;
    if (answer.error) this.failed += 1;
    this.onAnswer(item, answer);
  }

  #nextGroup() {
    const room = Math.min(this.limit - 2 ** 14, SLOW);
    let size = 0;
    let count = 0;
    for (const { file, address } of this.#queue.slice(0, this.group)) {
      if (count && (size + file.size > room || address !== this.#queue[0].address)) break;
      size += file.size;
      count += 1;
    }
    return this.#queue.splice(0, count);
  }

  /** One answer for each item. */
  async #send(items, signal) {
    const problems = await Promise.all(items.map((item) => this.#check(item.file)));
    const fine = items.filter((_, index) => !problems[index]);
    const answers = fine.length ? await this.#post(fine, signal) : [];
    return problems.map((error) => (error ? { error } : answers?.shift()));
  }

  async #check(file) {
    if (file.size > this.limit - 2 ** 14) return texts.large;
    return (await isUnreadable(file)) ? texts.unreadable : null;
  }

  async #post(items, signal) {
    const body = new FormData();
    for (const { file, name } of items) body.append("image", file, name);
    let response;
    let late = false;
    for (let tries = 1; !signal.aborted; tries += 1) {
      response = await fetch(items[0].address, { method: "POST", body, signal }).catch(() => null);
      if (response && !BUSY.includes(response.status)) break;
      const seconds = secondsToWait(response?.headers.get("Retry-After"), 2 ** (tries - 1));
      late = !seconds;
      if (late || tries === TRIES) break;
      await pause(1000 * seconds, signal);
    }
    if (signal.aborted) return [];
    const answer = await response?.json().catch(() => null);
    if (response?.ok && answer) return answer.photos;
    if (!response || late) {
      const error = answer?.message ?? texts.unreachable;
      this.#queue.splice(0).forEach((item) => this.#report(item, { error, again: true }));
    }
    if (response && !BUSY.includes(response.status) && items.length > 1) {
      const answers = []; // one by one, to learn what is wrong with each
      for (const item of items) answers.push(...(await this.#post([item], signal)));
      return answers;
    }
    const again = !answer || response.status === 429 || response.status >= 500;
    return items.map(() => ({ error: answer?.message ?? texts.unreachable, again }));
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", resolve, { once: true });
  });
}
