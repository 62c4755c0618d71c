// The page where people judge: names, judgements on their way to the server, and keys.

import { actions, inWords, letter, order, printed } from './actions.js';
import { edit } from './editor.js';
import { drawFigures } from './figures.js';
import { ask, Refused } from './server.js';
import { add } from './text.js';
import { $, again, drawAnswers, drawButtons, drawChoices, file, kind, next, opinions, put, ready, say, seconds, setState, view } from './view.js';

let annotator = '';
let ahead = null; // the item after the one on the screen

// ── Who judges ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

function askName() {
  setState('name');
  $('name').value = annotator;
  $('name').focus();
}

function enter(name) {
  annotator = name;
  $('show-name').textContent = annotator;
  $('show-name').setAttribute('aria-label', `You are ${annotator}. Change the name`);
  $('show-name').hidden = false;
  view.item = ahead = null;
  look();
}

$('name-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const name = $('name').value.trim();
  if (!name) return;
  localStorage.setItem('annotator', name);
  enter(name);
});

// ── The server ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

const request = (path, body = {}) => ask(path, { annotator, ...body }, connection);

/** Asks what is on the screen. */
const look = () => request('/label/screen').then(take, trouble);

function connection(lost) {
  if (document.body.dataset.connected === String(!lost)) return;
  document.body.dataset.connected = !lost;
  $('trouble').hidden = !lost;
  if (!lost) return say('The server is back.');
  $('trouble').textContent = `The server does not answer. ${view.saving ? 'Your last judgement is not saved yet; it is kept here' : 'What you have written is kept'}, ` +
    `and this page goes on once ${again} ${location.port}.`;
}

function trouble(error) {
  if (error.code === 'name') askName();
  $('trouble').textContent = error instanceof Refused ? error.message : String(error);
  $('trouble').hidden = false;
}

/** Takes what the server says is on the screen. */
function take(screen) {
  ahead = screen.ahead;
  $('done').textContent = screen.done;
  $('left').textContent = `· ${screen.left} left`;
  $('pace').textContent = screen.seconds === null ? '' : `· ${Math.round(screen.seconds)} s each`;
  $('bar').value = screen.done + screen.left === 0 ? 1 : screen.done / (screen.done + screen.left);
  if (screen.state === 'show') {
    if (view.item?.id !== screen.now.id) put(screen.now, page);
  } else {
    setState(screen.state);
    view.list = actions(kind, 0, page).filter((it) => it.run === page.undo);
    drawButtons(view.list);
    setTimeout(() => document.body.dataset.state === screen.state && look(), screen.state === 'wait' ? 500 : 3000);
  }
  ready();
  if ($('progress').open) drawProgress();
}

const drawProgress = () => request('/label/progress').then((it) => drawFigures($('figures'), it), trouble);
$('progress').addEventListener('toggle', () => $('progress').open && drawProgress());

/** Shows what was said about the last item, and what the reward model would have said. */
function tellBefore(judged, verdict) {
  if (opinions !== 'true') return;
  request('/label/opinion', { shown: judged.id }).then(({ scores }) => {
    if (scores === null) return;
    const one = scores.length === 1;
    const named = scores.map((score, side) => `${one ? '' : `${letter(side)} `}${score.toFixed(2)}`).join(', ');
    const ranks = scores.map((score) => 1 + scores.filter((other) => other > score).length);
    $('before').textContent = `The last one: you said ${inWords(verdict)}; the reward model gives ${named}${one ? '' : ` (${order(ranks)})`}.`;
    $('before').hidden = false;
  }, trouble);
}

// ── What a person does ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

const page = {
  edit,
  strength: () => view.strength,

  sure(value) {
    view.strength = value;
    drawChoices();
    say(`How sure: ${view.list.find((it) => it.name === 'sure' && it.value === value).label}.`);
  },

  /** Sends the verdict, and shows the next item at once. */
  judge(verdict) {
    if (!ready() || !view.item) return;
    if (verdict === 'skip' && view.draft) return say('A skipped item keeps no answer: judge it too, or discard what you wrote.');
    const judged = view.item;
    const body = { shown: judged.id, verdict, rewritten: view.draft, seconds: seconds() };
    view.saving = true;
    $('trouble').hidden = $('before').hidden = true;
    const sent = request('/label/judge', body);
    if (ahead) put(ahead, page);
    ahead = null;
    ready();
    sent.then((screen) => {
      view.saving = false;
      for (const name of ['draft', 'typed']) sessionStorage.removeItem(`${name} ${judged.id}`);
      say(verdict === 'skip' ? 'Skipped.' : `Saved: ${inWords(verdict)}.`);
      take(screen);
      if (verdict !== 'skip') tellBefore(judged, verdict);
    }, (error) => {
      view.saving = false;
      if (error.code === 'not_on_screen') look(); // judged in another tab
      else put(judged, page);
      trouble(error);
    });
  },

  undo() {
    if (view.saving) return;
    $('before').hidden = true;
    request('/label/undo').then(({ undone, screen }) => {
      view.item = null;
      take(screen);
      say({ judgement: 'The judgement is taken back.', skip: 'The skipped item is back.' }[undone] ?? 'There is nothing to take back.');
    }, trouble);
  },

  /** Gives an answer the next rank of the order. */
  place(side) {
    const { ranks, placed, tieNext } = view;
    if (ranks[side]) return;
    ranks[side] = tieNext && placed.length ? ranks[placed.at(-1)] : placed.length + 1;
    placed.push(side);
    view.tieNext = false;
    drawChoices();
    say(`${letter(side)} has rank ${ranks[side]}.${placed.length === ranks.length ? ` ${order(ranks)}: Enter saves it.` : ''}`);
  },

  tieNext() {
    view.tieNext = !view.tieNext;
    drawChoices();
    say(view.tieNext ? 'The next one ties with the one before.' : 'The next one comes after the one before.');
  },

  unplace() {
    const side = view.placed.pop();
    if (side === undefined) return;
    view.ranks[side] = 0;
    drawChoices();
    say(`${letter(side)} has no rank any more.`);
  },

  save() {
    if (view.placed.length === view.ranks.length) page.judge({ ranks: view.ranks });
    else say('Give every answer a rank first.');
  },

  dim() {
    view.dimmed = !view.dimmed;
    drawAnswers();
    drawChoices();
    say(view.dimmed ? 'What both answers share is dimmed.' : 'Both answers are shown in full.');
  },
};

/** The session is over; the page of the next round, if there is one, is waited for. */
async function end() {
  setState('ended');
  while (next) {
    await new Promise((go) => setTimeout(go, 2000));
    const page = await fetch('/').then((answer) => answer.text(), () => '');
    if (page.includes(`data-round="Round ${next} `)) return location.reload();
  }
}

// ── Help and keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

const help = [
  { keys: ['g'], label: 'Guidelines', run: () => $('guidelines-text').textContent && $('guidelines').showModal() },
  { keys: ['?'], label: 'All keys', run: showKeys },
];

function showKeys() {
  $('key-list').replaceChildren();
  for (const { keys, label } of [...view.list, ...help]) {
    const row = add($('key-list'), 'tr');
    const cell = add(row, 'th');
    cell.scope = 'row';
    keys.forEach((key) => add(cell, 'kbd', '', printed(key)));
    add(row, 'td', '', label);
  }
  $('keys').showModal();
}

document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input, textarea, dialog[open]');
  if (typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  // Enter on a button presses it, and sideways keys move what scrolls.
  const own = { Enter: 'button, a, summary', ArrowLeft: 'pre', ArrowRight: 'pre' }[event.key];
  if (own && event.target.closest(own)) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const judging = ['show', 'done'].includes(document.body.dataset.state);
  const drawn = (it) => it.button?.isConnected;
  const action = [...view.list.filter((it) => judging && drawn(it)), ...help].find((it) => it.keys.includes(key));
  if (!action) return;
  event.preventDefault();
  action.run();
});

$('show-guidelines').hidden = !$('guidelines-text').textContent;
$('show-guidelines').addEventListener('click', help[0].run);
$('show-keys').addEventListener('click', showKeys);
$('show-name').addEventListener('click', askName);
$('end').addEventListener('click', () => request('/label/end').then(end, trouble));
document.querySelectorAll('.file').forEach((it) => { it.textContent = file; });
window.addEventListener('beforeunload', (event) => view.saving && event.preventDefault());

const name = localStorage.getItem('annotator') || document.body.dataset.annotator;
if (name) enter(name);
else askName();
