"""D2O's token level (arXiv 2406.13035) in NumPy: nearest keeper by key cosine, threshold by a moving average, weighted merge.
Writes ../fixtures/kv/d2o.json.

Here for each KV head by itself: u of a loser is its largest cosine to a keeper; the threshold begins at the mean of u and then
follows beta * mean + (1 - beta) * threshold; losers at or above it are merged with weights exp(u) / D against e / D of the
keeper itself, D being their sum.
"""

import numpy as np
from kv_inputs import best, values, write

N, D, HEAVY, RECENT, SINK, BETA = 40, 32, 9, 6, 4, 0.7


def keep(scores, heavy, recent, sink):
    n = len(scores)
    ranked = scores.copy()
    ranked[:sink] = np.inf
    return best(ranked[: n - recent], heavy) + list(range(n - recent, n))


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-8)


def merged(k, v, kept, threshold, self_weight, how):
    losers = [i for i in range(len(k)) if i not in kept]
    cos = unit(k[losers]) @ unit(k[kept]).T
    target, u = cos.argmax(1), cos.max(1)
    tau = u.mean() if threshold is None else BETA * u.mean() + (1 - BETA) * threshold
    new_k, new_v, pairs = k[kept].copy(), v[kept].copy(), []
    for c in range(len(kept)):
        mine = [i for i in range(len(losers)) if target[i] == c and u[i] >= tau]
        pairs += [[losers[i], kept[c]] for i in mine]
        if not mine:
            continue
        for new, x in [(new_k, k), (new_v, v)]:
            rows = x[[losers[i] for i in mine]]
            if how == "paper":
                w = np.exp(u[mine])
                total = self_weight + w.sum()
                new[c] = (self_weight * x[kept[c]] + (w[:, None] * rows).sum(0)) / total
            else:
                new[c] = (x[kept[c]] + (u[mine][:, None] * rows).sum(0)) / (1 + len(mine))
    return new_k, new_v, float(tau), sorted(pairs)


def sums(x):
    """A number for each row: its elements weighted by 1, 2, 3, …"""
    return np.round(x @ (1 + np.arange(D)), 4).tolist()


if __name__ == "__main__":
    cases = []
    for how, self_weight in [("paper", float(np.e)), ("released", float(np.e)), ("paper", 0.1)]:
        k = values(41, N + 3, D).astype(np.float64)
        v = values(42, N + 3, D).astype(np.float64)
        # Neighbours are alike, so that there is something to merge.
        k[1:] += 1.5 * k[:-1]
        scores = np.abs(values(43, N + 3)).astype(np.float64)
        held = list(range(N))
        kept = keep(scores[:N], HEAVY, RECENT, SINK)
        kk, vv, tau, pairs = merged(k[:N], v[:N], kept, None, self_weight, how)
        steps = [{"kept": kept, "tau": tau, "pairs": pairs, "keys": sums(kk), "values": sums(vv)}]
        s = scores[kept]
        for step in range(2):
            n = N + step
            kk, vv, s = np.vstack([kk, k[n : n + 1]]), np.vstack([vv, v[n : n + 1]]), np.append(s, scores[n])
            kept = keep(s, HEAVY, RECENT, SINK)
            kk, vv, tau, pairs = merged(kk, vv, kept, tau, self_weight, how)
            s = s[kept]
            steps.append({"kept": kept, "tau": tau, "pairs": pairs, "keys": sums(kk), "values": sums(vv)})
        cases.append({"merge": how, "self_weight": self_weight, "steps": steps})
    write("d2o", {"cases": cases})
