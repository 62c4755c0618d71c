// Texts of people and models as elements. Everything is text content: markup in an answer is shown, never run.

/** The turns of a text: a string, a list of messages, or {messages, tools}. */
export function turns(text) {
  if (typeof text === 'string') return [{ role: null, content: text, extra: {} }];
  const messages = Array.isArray(text) ? text : text.messages;
  const of = ({ role, content, train, ...extra }) => ({ role, content: content ?? '', extra });
  const list = messages.map(of);
  if (!Array.isArray(text)) list.unshift({ role: 'tools', content: '', extra: text.tools });
  return list;
}

/** What a text says, without roles: what two answers are compared by. */
export const plain = (text) => turns(text).map((turn) => turn.content).join('\n');

/** Replaces what is in `element` by `text`; the characters in the ranges `common` are dimmed. */
export function show(element, text, common = []) {
  element.replaceChildren();
  const list = turns(text);
  const answer = list.length === 1 && list[0].role === 'assistant';
  let from = 0;
  for (const turn of list) {
    const box = add(element, 'div', turn.role === null || answer ? '' : 'turn');
    if (turn.role !== null && !answer) add(box, 'div', 'role', turn.role);
    const lead = turn.content.search(/\S|$/); // what separates an answer from its prompt is not seen there
    body(box, turn.content.slice(lead), common, from + lead);
    if (Object.keys(turn.extra).length > 0) add(box, 'pre', 'code', JSON.stringify(turn.extra, null, 2)).tabIndex = 0;
    from += turn.content.length + 1;
  }
  if (plain(text).trim() === '') add(element, 'p', 'soft', plain(text) === '' ? '(empty)' : '(only white space)');
}

/** The lines of a turn: fenced code and tables keep their columns, all else is prose. `from` is where it begins in the ranges. */
function body(box, content, common, from) {
  const flush = (kind, start, end) => {
    if (start === end) return;
    const part = content.slice(start, end).replace(/\n$/, '');
    const element = add(box, kind === 'prose' ? 'div' : 'pre', kind === 'prose' ? 'text' : kind);
    if (kind === 'prose') element.dir = 'auto';
    else element.tabIndex = 0; // what scrolls sideways can be reached by keyboard
    dim(element, part, common, from + start);
  };
  let kind = 'prose', fence = '', start = 0, at = 0;
  for (const line of content.split(/(?<=\n)/)) {
    const mark = line.match(/^ {0,3}(`{3,}|~{3,})/)?.[1] ?? '';
    const end = at + line.length;
    if (kind === 'code') {
      const closes = mark.startsWith(fence) && line.trim() === mark;
      if (closes) { flush('code', start, end); kind = 'prose'; start = end; }
    } else if (mark) {
      flush(kind, start, at);
      kind = 'code'; fence = mark; start = at;
    } else {
      const now = /^\s*\|.*\|\s*$/.test(line) ? 'table' : 'prose';
      if (now !== kind) { flush(kind, start, at); kind = now; start = at; }
    }
    at = end;
  }
  flush(kind, start, at);
}

/** Appends `text`, which begins at `from`, with spans around what is in the ranges. */
function dim(element, text, common, from) {
  let at = 0;
  for (const [start, end] of common) {
    const a = Math.max(start - from, at), b = Math.min(end - from, text.length);
    if (a >= b) continue;
    element.append(text.slice(at, a));
    add(element, 'span', 'common', text.slice(a, b));
    at = b;
  }
  element.append(text.slice(at));
}

/** Appends an element with a class and a text. */
export function add(parent, name, className = '', text = '') {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.textContent = text;
  parent.append(element);
  return element;
}

// A word, a character of a script without spaces, white space, or any other character.
const TOKEN = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]|[\p{L}\p{M}\p{N}_]+|\s+|[^\p{L}\p{M}\p{N}_\s]/gu;
// Beyond this many comparisons of words only the beginning and the end of two texts are compared.
const COMPARISONS = 4_000_000;
// Fewer words than this in a row are alike by chance.
const RUN = 3;

/** The ranges of characters that two texts have in common, for each of the two: a longest common subsequence of their words. */
export function shared(left, right) {
  const a = [...left.matchAll(TOKEN)], b = [...right.matchAll(TOKEN)];
  const same = (i, j) => a[i][0] === b[j][0];
  let head = 0, tail = 0;
  const shortest = Math.min(a.length, b.length);
  while (head < shortest && same(head, head)) head++;
  while (tail < shortest - head && same(a.length - 1 - tail, b.length - 1 - tail)) tail++;
  const pairs = Array.from({ length: head }, (_, i) => [i, i]);
  const n = a.length - head - tail, m = b.length - head - tail;
  if (n * m <= COMPARISONS) pairs.push(...middle(n, m, (i, j) => same(head + i, head + j)).map(([i, j]) => [head + i, head + j]));
  for (let k = tail; k > 0; k--) pairs.push([a.length - k, b.length - k]);
  return ranges(pairs, a, b, left, right);
}

function middle(n, m, same) {
  const width = m + 1, length = new Uint16Array((n + 1) * width);
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      const down = length[(i + 1) * width + j], across = length[i * width + j + 1];
      length[i * width + j] = same(i, j) ? length[(i + 1) * width + j + 1] + 1 : Math.max(down, across);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < n && j < m;) {
    if (same(i, j)) pairs.push([i++, j++]);
    else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i++;
    else j++;
  }
  return pairs;
}

/** Runs of neighbours in both texts, those that are long enough or reach an end. */
function ranges(pairs, a, b, left, right) {
  const found = [[], []];
  for (let k = 0; k < pairs.length;) {
    let end = k + 1;
    while (end < pairs.length && pairs[end][0] === pairs[end - 1][0] + 1 && pairs[end][1] === pairs[end - 1][1] + 1) end++;
    const words = pairs.slice(k, end).filter(([i]) => a[i][0].trim() !== '').length;
    const [i, j] = pairs[k], [p, q] = pairs[end - 1];
    const edge = (i === 0 && j === 0) || (p === a.length - 1 && q === b.length - 1);
    if (words >= RUN || (edge && words > 0)) {
      found[0].push([a[i].index, a[p].index + a[p][0].length]);
      found[1].push([b[j].index, b[q].index + b[q][0].length]);
    }
    k = end;
  }
  return found;
}
