// Words of the captions: which are frequent, and which photos have them.

const collator = new Intl.Collator();

/** The words of a photo's text in lower case → as they are written, so that German nouns keep their capital. */
export function wordsOf(photo) {
  const text = photo.language === "fr" ? photo.text?.replace(/['’]/g, " ") : photo.text; // l'homme is two words
  const words = new Map();
  for (const { 0: word, index } of text?.matchAll(/[\p{L}\p{N}][\p{L}\p{N}'’-]*/gu) ?? []) {
    const lower = word.toLowerCase();
    if (index || !words.has(lower)) words.set(lower, index ? word : lower);
  }
  return words;
}

/**
 * [word in lower case, number of photos, word as it is written], the most frequent first.
 * @param {Record<string, string[]>} common language → words that are left out
 * @param {Set<string>} chosen words that follow even if they are rarer
 */
export function rankWords(photos, most, common, chosen) {
  const counts = new Map();
  const written = new Map();
  for (const photo of photos) {
    for (const [word, form] of wordsOf(photo)) {
      if (common[photo.language]?.includes(word)) continue;
      counts.set(word, (counts.get(word) ?? 0) + 1);
      if (form !== word || !written.has(word)) written.set(word, form);
    }
  }
  const sorted = [...counts].sort((a, b) => b[1] - a[1] || collator.compare(a[0], b[0]));
  const ranked = sorted.slice(0, most).map(([word]) => word);
  const all = new Set([...ranked, ...chosen]);
  return [...all].map((word) => [word, counts.get(word) ?? 0, written.get(word) ?? word]);
}
