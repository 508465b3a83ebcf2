// Words of the captions: which are frequent, and which photos have them.

const COMMON = {
  en: "a an and are as at be by for from has have he her his in into is it its near next of on onto or other out over she some that the their them there they this through to two under up very while who with",
  de: "am an auf aus bei beim das dem den der des die durch ein eine einem einen einer eines er es für hat hinter ihr ihre im in ist mit neben sein seine sich sie sind steht über um und unter vom von vor wird zu zum zur zwei",
};
const collator = new Intl.Collator();
const common = Object.fromEntries(Object.entries(COMMON).map(([language, words]) => [language, new Set(words.split(" "))]));

export function wordsOf(photo) {
  return new Set(photo.text?.toLowerCase().match(/[\p{L}\p{N}][\p{L}\p{N}'’-]*/gu));
}

/** [word, number of photos] of all words but the most common of the language, the most frequent first. */
export function rankWords(photos, most) {
  const counts = new Map();
  for (const photo of photos) {
    for (const word of wordsOf(photo)) {
      if (!common[photo.language]?.has(word)) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return [...counts].sort((a, b) => b[1] - a[1] || collator.compare(a[0], b[0])).slice(0, most);
}
