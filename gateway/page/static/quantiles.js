// Quantiles of histograms, as `protocol/answer_times.py` has them. Pure.

// Milliseconds within which a share of the answers was ready, or null without answers. `counts` are pairs of a bucket and the answers
// in it, ascending; `bounds` the buckets' upper bounds in milliseconds. Of the last bucket only its lower bound is known.
export function quantile(counts, share, bounds) {
  if (!bounds.length) return null;
  let left = share * counts.reduce((sum, [, count]) => sum + count, 0);
  for (const [place, count] of counts) {
    if (left <= count && count) {
      const low = place ? bounds[place - 1] : 0;
      return low + ((bounds[place] ?? low) - low) * (Math.max(left, 0) / count);
    }
    left -= count;
  }
  return null;
}

// What was counted between two readings.
export function between(before, now) {
  const former = new Map(before);
  return now.map(([place, count]) => [place, count - (former.get(place) ?? 0)]).filter(([, count]) => count > 0);
}

// Several versions' histograms as one.
export function together(histograms) {
  const sums = new Map();
  for (const [place, count] of histograms.flat()) sums.set(place, (sums.get(place) ?? 0) + count);
  return [...sums].sort(([one], [other]) => one - other);
}
