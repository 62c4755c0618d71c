// What a person can do with the item on the screen: buttons and keys are made of one list, so that neither lacks what the other has.

/** The name of a place on the screen. */
export const letter = (side) => String.fromCharCode(65 + side);

/** The words for how sure a preference is: strengths 1, 2 and 3. */
const SURE = ['a little', 'clearly', 'by far'];

/** The actions of a kind of judgement on so many answers, by row of buttons; `page` does them. */
export function actions(kind, answers, page) {
  const list = [];
  const action = (row, keys, label, run, more) => list.push({ row, keys, label, run, ...more });
  const judge = (keys, label, verdict, row = 'main') => action(row, keys, label, () => page.judge(verdict()));
  if (kind === 'pair') {
    const better = (side) => () => ({ better: { side, strength: page.strength() } });
    judge(['f', 'ArrowLeft'], 'A is better', better(0));
    judge(['t'], 'Tie', () => 'tie');
    judge(['j', 'ArrowRight'], 'B is better', better(1));
    SURE.forEach((word, i) => action('sure', [`${i + 1}`], word, () => page.sure(i + 1), { name: 'sure', value: i + 1 }));
    judge(['b'], 'Both bad', () => 'both_bad', 'more');
  } else if (kind === 'ranking') {
    for (let i = 0; i < answers; i++) action('cards', [`${i + 1}`], `${letter(i)} is next`, () => page.place(i), { name: 'place', value: i });
    action('main', ['t'], 'Next one ties', page.tieNext, { name: 'tie' });
    action('main', ['Backspace'], 'Take one back', page.unplace);
    action('main', ['Enter'], 'Save the order', page.save, { name: 'save' });
  } else if (kind === 'rating') {
    ['1 bad', '2', '3', '4', '5 best'].forEach((word, i) => judge([`${i + 1}`], word, () => ({ rating: i + 1 })));
  } else {
    judge(['n', 'f', 'ArrowLeft'], 'Bad', () => ({ thumbs: false }));
    judge(['y', 'j', 'ArrowRight'], 'Good', () => ({ thumbs: true }));
  }
  judge(['s'], 'Skip', () => 'skip', 'more');
  action('more', ['u'], 'Undo', page.undo);
  action('more', ['e'], 'Write a better one', page.edit);
  if (kind === 'pair') action('more', ['d'], 'Dim shared text', page.dim, { name: 'dim' });
  return list;
}

/** The question of a kind. */
export const question = (kind) => ({
  pair: 'Which answer is better?',
  ranking: 'Order the answers, the best first',
  rating: 'How good is this answer?',
  thumbs: 'Is this answer good?',
})[kind];

/** A key as it is printed on it. */
export const printed = (key) => ({ ArrowLeft: '←', ArrowRight: '→', Backspace: '⌫' })[key] ?? key;

/** What was said, in words. */
export function inWords(verdict) {
  if (verdict === 'tie') return 'a tie';
  if (verdict === 'both_bad') return 'both bad';
  if (verdict.better) return `${letter(verdict.better.side)} is better, ${SURE[verdict.better.strength - 1]}`;
  if (verdict.ranks) return order(verdict.ranks);
  if (verdict.rating) return `${verdict.rating} of 5`;
  return verdict.thumbs ? 'good' : 'bad';
}

/** An order in letters, B > A = C, from the rank of each side, 1 the best. */
export function order(ranks) {
  const sides = ranks.map((_, side) => side).sort((a, b) => ranks[a] - ranks[b] || a - b);
  return sides.map((side, i) => (i === 0 ? '' : ranks[sides[i - 1]] === ranks[side] ? ' = ' : ' > ') + letter(side)).join('');
}
