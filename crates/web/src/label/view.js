// What is on the screen, and how it is drawn.

import { actions, letter, printed, question } from './actions.js';
import { add, plain, shared, show } from './text.js';

export const $ = (id) => document.getElementById(id);
export const { again, kind, file, next, opinions } = document.body.dataset;

// So long after an item has come on the screen nothing is judged: the second half of a double click is about the item before.
const HESITATION = 400;

/** The item on the screen and what a person has done to it so far. */
export const view = {
  item: null, // {id, prompt, answers: [{text, finished}]}
  list: [], // what can be done
  strength: 1, // how sure a preference is
  placed: [], // of a ranking, the sides in the order in which they were placed
  ranks: [], // and the rank of each side, 0 for none
  tieNext: false,
  dimmed: false,
  draft: null, // {side, text}, a better answer that goes with the judgement
  saving: false, // a judgement is on its way to the disk
};

let shownAt = 0, hiddenFor = 0, hiddenSince = null;

/** For how long the item was looked at. */
export const seconds = () => (performance.now() - shownAt - hiddenFor) / 1000;

document.addEventListener('visibilitychange', () => {
  if (document.hidden) hiddenSince = performance.now();
  else if (hiddenSince !== null) {
    hiddenFor += performance.now() - hiddenSince;
    hiddenSince = null;
  }
});

/** Whether a judgement would be taken now. */
export function ready() {
  const early = performance.now() - shownAt < HESITATION;
  const now = document.body.dataset.state !== 'show' || (view.item !== null && !view.saving && !early);
  document.body.dataset.ready = now;
  return now;
}

/** Says something to the person, and to a reader of the screen. */
export function say(text) {
  $('said').textContent = text;
}

/** Shows the part of the page that belongs to a state: name, show, wait, done or ended. */
export function setState(name) {
  const changed = document.body.dataset.state !== name;
  document.body.dataset.state = name;
  $('name-form').hidden = name !== 'name';
  $('task').hidden = name !== 'show';
  $('wait').hidden = name !== 'wait';
  $('done-card').hidden = name !== 'done';
  $('ended').hidden = name !== 'ended';
  $('progress').hidden = name === 'name';
  $('verdicts').hidden = name !== 'show' && name !== 'done';
  $('question').textContent = name === 'show' ? question(kind) : 'Label';
  if (name !== 'show') view.item = null;
  if (name === 'done' && changed) $('progress').open = true;
  ready();
}

/** Puts an item on the screen. */
export function put(item, page) {
  Object.assign(view, { item, strength: 1, placed: [], ranks: item.answers.map(() => 0), tieNext: false });
  view.draft = JSON.parse(sessionStorage.getItem(`draft ${item.id}`));
  view.list = actions(kind, item.answers.length, page);
  shownAt = performance.now();
  hiddenFor = 0;
  hiddenSince = document.hidden ? shownAt : null;
  const blank = plain(item.prompt).trim() === '';
  $('prompt').hidden = blank;
  show($('prompt'), item.prompt);
  drawAnswers();
  drawDraft();
  drawButtons(view.list);
  setState('show');
  scrollTo(0, 0);
  // A reader of the screen begins with the prompt, and no key still presses the button of the item before.
  (blank ? $('answers').firstElementChild : $('prompt')).focus({ preventScroll: true });
  setTimeout(ready, HESITATION + 1);
}

export function drawAnswers() {
  const { answers } = view.item;
  const many = answers.length > 1;
  const common = view.dimmed && answers.length === 2 ? shared(...answers.map((it) => plain(it.text))) : [];
  $('answers').replaceChildren();
  $('answers').dataset.count = answers.length;
  answers.forEach(({ text, finished }, side) => {
    const card = add($('answers'), 'section', 'answer card');
    card.tabIndex = -1;
    card.setAttribute('aria-label', many ? `Answer ${letter(side)}` : 'Answer');
    const head = add(card, 'div', 'head');
    add(head, 'h2', '', many ? letter(side) : 'Answer');
    if (kind === 'ranking') add(head, 'span', 'rank');
    show(add(card, 'div', 'body'), text, common[side]);
    if (!finished) add(card, 'p', 'soft', '(cut off at the longest length)');
  });
}

/** The buttons: rows for how sure, for the verdict and for all else; those that place an answer stand in it. */
export function drawButtons(list) {
  const bar = $('verdicts');
  bar.replaceChildren();
  for (const row of ['main', 'sure', 'more']) {
    const own = list.filter((it) => it.row === row);
    if (own.length === 0) continue;
    const box = add(bar, 'div', `row ${row}`);
    if (row === 'sure') {
      box.setAttribute('role', 'group');
      box.setAttribute('aria-label', 'How sure');
      add(box, 'span', 'soft', 'How sure').setAttribute('aria-hidden', 'true');
    }
    own.forEach((it) => button(box, it));
  }
  const heads = document.querySelectorAll('.answer .head');
  list.filter((it) => it.row === 'cards').forEach((it) => button(heads[it.value], it));
  drawChoices();
}

function button(box, it) {
  it.button = add(box, 'button', '', it.label);
  it.button.type = 'button';
  add(it.button, 'kbd', '', printed(it.keys[0]));
  it.button.setAttribute('aria-keyshortcuts', it.keys.join(' '));
  it.button.addEventListener('click', it.run);
}

/** What is chosen so far, on the buttons and in the answers. */
export function drawChoices() {
  const pressed = { sure: (it) => it.value === view.strength, dim: () => view.dimmed, tie: () => view.tieNext };
  for (const it of view.list) {
    const test = pressed[it.name];
    if (test) it.button?.setAttribute('aria-pressed', test(it));
    if (it.name === 'save') it.button?.classList.toggle('primary', view.placed.length === view.ranks.length);
    if (it.name === 'place' && it.button) it.button.disabled = view.ranks[it.value] > 0;
  }
  document.querySelectorAll('.answer .rank').forEach((badge, side) => {
    badge.textContent = view.ranks[side] ? `rank ${view.ranks[side]}` : '';
  });
}

/** The better answer that was written, below the answers. */
export function drawDraft() {
  const { draft, item } = view;
  $('written').hidden = draft === null;
  if (draft === null) return;
  $('written-for').textContent = item.answers.length > 1 ? letter(draft.side) : 'this one';
  show($('written-text'), draft.text);
}
