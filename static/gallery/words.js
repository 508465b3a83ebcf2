// Words of the captions: which are frequent, and which photos have them.

const collator = new Intl.Collator();

export function wordsOf(photo) {
  const text = photo.language === "fr" ? photo.text?.replace(/['’]/g, " ") : photo.text; // l'homme is two words
  return new Set(text?.toLowerCase().match(/[\p{L}\p{N}][\p{L}\p{N}'’-]*/gu));
}

/**
 * [word, number of photos], the most frequent first.
 * @param {Record<string, string[]>} common language → words that are left out
 */
export function rankWords(photos, most, common) {
  const counts = new Map();
  for (const photo of photos) {
    for (const word of wordsOf(photo)) {
      if (!common[photo.language]?.includes(word)) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return [...counts].sort((a, b) => b[1] - a[1] || collator.compare(a[0], b[0])).slice(0, most);
}
