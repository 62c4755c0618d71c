// What the judgements say about those who judged, in words.

import { add } from './text.js';

const percent = (x) => `${Math.round(100 * x)} %`;
const share = (it) => `${percent(it.share)} [${percent(it.low)}, ${percent(it.high)}] of ${it.of}`;
const coefficient = (it) => it.value.toFixed(2) + (it.interval ? ` [${it.interval.map((x) => x.toFixed(2)).join(', ')}]` : '');

/** The lines of the panel: [what, value, what it means]. What cannot be said yet is left out. */
function figures(it) {
  const lines = [['Judgements in the file', `${it.done} of yours, ${it.all} in all`, '']];
  if (it.seconds !== undefined) lines.push(['Time for an item', `${it.seconds.toFixed(1)} s`, 'the median of yours']);
  const add = (what, value, format, means) => value && lines.push([what, format(value), means]);
  add('Agreement with yourself', it.oneself, share, 'some items come back later: how often you judged them as before');
  if (it.shared > 0) lines.push(['Judged by several', `${it.shared} ${it.shared === 1 ? 'item' : 'items'}`, '']);
  add('Agreement between annotators, κ', it.kappa, coefficient, 'Cohen’s: 1 is perfect, 0 is chance');
  add('α, nominal', it.alpha_nominal, coefficient, 'Krippendorff’s: 1 is perfect, 0 is chance');
  add('α, ordinal', it.alpha_ordinal, coefficient, 'the same, a near miss counting less');
  add('Chose what stood first', it.first, share, 'without position bias the interval holds 50 %');
  add('Chose the longer answer', it.longer, share, 'good answers may be longer: far from 50 % is worth a thought');
  return lines;
}

/** Fills the list of the panel. */
export function drawFigures(list, it) {
  list.replaceChildren();
  for (const [what, value, means] of figures(it)) {
    const line = add(list, 'div');
    add(line, 'dt', '', what);
    const said = add(line, 'dd', '', value);
    if (means) add(said, 'span', 'soft', means);
  }
}
