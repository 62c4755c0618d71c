// Writing a better answer. What is typed survives a reload and a server that is gone.

import { letter } from './actions.js';
import { add, plain } from './text.js';
import { $, drawDraft, say, view } from './view.js';

let side = 0; // of the answer that is replaced
let untouched = ''; // the text that the editor began with

const kept = () => `draft ${view.item.id}`;
const typed = () => `typed ${view.item.id}`;

/** Opens the editor, with what was written before or with the text of an answer. */
export function edit() {
  const { answers } = view.item;
  const box = $('replaces');
  box.replaceChildren();
  box.hidden = answers.length === 1;
  add(box, 'span', 'soft', 'In place of');
  answers.forEach((_, i) => {
    const choice = add(box, 'button', '', letter(i));
    choice.type = 'button';
    choice.setAttribute('aria-label', `Answer ${letter(i)}`);
    choice.addEventListener('click', () => choose(i));
  });
  const begun = JSON.parse(sessionStorage.getItem(typed())) ?? view.draft;
  $('better').value = begun?.text ?? '';
  untouched = begun ? null : '';
  choose(begun?.side ?? 0);
  $('editor').showModal();
  $('better').focus();
}

/** Chooses the answer to replace, and begins with its text while nothing else was typed. */
function choose(chosen) {
  side = chosen;
  const text = plain(view.item.answers[side].text).trimStart();
  if ($('better').value === untouched) $('better').value = untouched = text;
  [...$('replaces').querySelectorAll('button')].forEach((it, i) => it.setAttribute('aria-pressed', i === side));
}

function keep() {
  const text = $('better').value;
  const old = plain(view.item.answers[side].text);
  if (text.trim() === '' || text.trim() === old.trim()) {
    $('editor').close();
    return discard(text.trim() === '' ? 'An empty answer is not kept.' : 'The answer is unchanged, so nothing is kept.');
  }
  // A model's answer to a bare prompt begins with what separates the two, mostly a space.
  const lead = old.match(/^\s*/)[0];
  view.draft = { side, text: lead + text.trimStart() };
  sessionStorage.setItem(kept(), JSON.stringify(view.draft));
  sessionStorage.removeItem(typed());
  $('editor').close();
  drawDraft();
  say('Kept. Now judge the answers.');
}

/** Forgets what was written. */
export function discard(why = 'Your answer is discarded.') {
  view.draft = null;
  sessionStorage.removeItem(kept());
  sessionStorage.removeItem(typed());
  drawDraft();
  say(why);
}

$('better').addEventListener('input', () => {
  sessionStorage.setItem(typed(), JSON.stringify({ side, text: $('better').value }));
});
$('keep').addEventListener('click', keep);
$('close-editor').addEventListener('click', () => $('editor').close());
$('edit-again').addEventListener('click', edit);
$('discard').addEventListener('click', () => discard());
$('better').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    keep();
  }
});
