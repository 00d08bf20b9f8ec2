"""Trains the built-in model: mixes the streams, packs rows, steps, and writes checkpoints from which it resumes.

The schedule is driven by tokens: warm-up, stable, decay over the last part; the mix and the row length follow it.
It knows nothing of what the streams say.

    python train.py --data DATA --out RUN --tokens 10000000
"""
import argparse, json, math, os, pathlib, tempfile, time

os.environ["OPENBLAS_NUM_THREADS"] = "1"   # each worker is one thread; before numpy reads it

import numpy, torch, torch.distributed
import torch.nn.functional as F

from model import Config, Model, linear, rope_table

POSITIONS = 65_536
WARM_UP = 0.02
MUON_RATE, ADAM_RATE = 0.02, 4e-3
# Weight of a token's loss by stream: code is far from predictable, and would otherwise be most of the gradient. The first
# tokens of an answer decide which answer it is; of a call the seventh begins the tool's name.
WEIGHTS = {"help": 3.0, "talk": 3.0, "tools": 2.0, "long": 2.0, "copy": 1.0, "repeat": 0.5, "code": 0.25, "fim": 0.25}
FIRST_TOKENS, FIRST_WEIGHT = 10, 2.5
# Share of the tokens by stream; the phases are (until this share of all tokens, row lengths of the steps in turn, mix).
PHASES = [
    (0.0945, [512], {"repeat": 0.05, "copy": 0.12, "help": 0.33, "talk": 0.06, "tools": 0.36, "code": 0.03, "fim": 0.05}),
    (0.85, [512], {"copy": 0.05, "help": 0.38, "talk": 0.08, "tools": 0.38, "code": 0.04, "fim": 0.07}),
    (0.945, [1536], {"copy": 0.03, "help": 0.36, "talk": 0.08, "tools": 0.34, "code": 0.03, "fim": 0.06, "long": 0.10}),
    (1.01, [512, 2048], {"copy": 0.03, "help": 0.28, "talk": 0.10, "tools": 0.25, "code": 0.03, "fim": 0.06, "long": 0.25}),
]
# Share of the rows whose documents see each other, as a conversation sees what was said before it; in the others each document stands
# alone. In long rows all do, and in most of them the tokens of the beginning count as up to 32 of their kind each in attention: so a row
# of 2,048 is like a prompt of many thousands, in which the question at the end must not drown.
TOGETHER, LONG_ROW, CROWD_MAX = 0.15, 2048, 32
# Documents of a stream that wait for a row with room for them.
POOL = 12


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--tokens", type=int, default=10_000_000)
    arguments.add_argument("--batch-tokens", type=int, default=4096)
    arguments.add_argument("--decay", type=float, default=0.7)
    arguments.add_argument("--rate", type=float, default=0.7, help="factor on both learning rates")
    arguments.add_argument("--layers", type=int, default=4)
    arguments.add_argument("--workers", type=int, default=2, help="processes that share each step's rows; on a busy machine faster than threads, which wait for each other in every operation")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--phases", default="", help="JSON that replaces PHASES")
    arguments.add_argument("--checkpoint-s", type=float, default=120)
    arguments.add_argument("--steps-max", type=int, default=0, help="stop early, for measuring")
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    world = Workers(arguments.workers)
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    phases = json.loads(arguments.phases) if arguments.phases else PHASES

    model = Model(Config(layers=arguments.layers))
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    parameters = list(model.parameters())
    others = [p for p in model.parameters() if p.ndim == 1] + [model.embedding]
    muon, adam = Muon(matrices, world), torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=False)
    state = {"step": 0, "tokens": 0, "seen": 0, "loss": {}}
    packer = Packer(pathlib.Path(arguments.data), arguments.seed * 100 + world.rank)
    latest = out / "latest.pt"
    if latest.exists():
        saved = torch.load(latest, weights_only=False)
        model.load_state_dict(saved["model"]); muon.load_state_dict(saved["muon"]); adam.load_state_dict(saved["adam"])
        state = saved["state"]; packer.restore(saved["packer"][world.rank])
        world.say("resumed at", state)
    world.say(sum(p.numel() for p in model.parameters()), "parameters")
    weights = torch.tensor([WEIGHTS[name] for name in packer.names])
    table = rope_table(model.config, POSITIONS)
    log, saved_at, began, began_tokens, recent = open(out / "log.jsonl", "a"), time.time(), time.time(), state["tokens"], {}
    while state["tokens"] < arguments.tokens:
        progress = state["tokens"] / arguments.tokens
        _, lengths, mix = next(p for p in phases if progress < p[0])
        length = lengths[state["step"] % len(lengths)]
        rate = arguments.rate * schedule(progress, arguments.decay)
        rows = max(1, arguments.batch_tokens // length // world.size)
        tokens, mask, streams, positions, documents, crowd = packer.batch(rows, length, mix)
        hidden = model(tokens[:, :-1], table[positions], visible(documents, crowd))
        chosen = mask[:, 1:]
        logits = linear(hidden[chosen], model.embedding)
        losses = F.cross_entropy(logits, tokens[:, 1:][chosen], reduction="none")
        weight = weigh(chosen, weights[streams[:, 1:].long()])[chosen]
        ((losses * weight).sum() / weight.sum()).backward()
        world.average(parameters)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        muon.step(MUON_RATE * rate, 0.85 + 0.10 * min(1, state["step"] / 200))
        for group in adam.param_groups:
            group["lr"] = ADAM_RATE * rate
        adam.step()
        for p in model.parameters():
            p.grad = None
        state["step"] += 1
        state["tokens"] += rows * length * world.size
        with torch.no_grad():
            which = streams[:, 1:][chosen]
            for i, name in enumerate(packer.names):
                if (which == i).any():
                    recent.setdefault(name, []).append(losses[which == i].mean().item())
        if state["step"] % 10 == 0 and (total := world.sum(torch.tensor(float(asked_tokens(out)) if world.rank == 0 else 0.0)).item()):
            arguments.tokens = int(total)
        if state["step"] % 10 == 0:
            speed = (state["tokens"] - began_tokens) / (time.time() - began)
            line = {"step": state["step"], "tokens": state["tokens"], "rate": round(rate, 4), "tokens_per_s": round(speed), **{k: round(sum(v) / len(v), 4) for k, v in sorted(recent.items())}}
            world.say(json.dumps(line))
            if world.rank == 0:
                log.write(json.dumps(line) + "\n"); log.flush()
            recent = {}
        if world.any(time.time() - saved_at > arguments.checkpoint_s or state["tokens"] >= arguments.tokens):
            saved_at = time.time()
            packers = world.gather(packer.state())
            if world.rank == 0:
                torch.save({"model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "state": state, "packer": packers, "config": vars(model.config)}, out / "latest.tmp")
                os.replace(out / "latest.tmp", latest)
        if arguments.steps_max and state["step"] >= arguments.steps_max:
            return


def visible(documents, crowd):
    """documents, crowd [B, T] -> [B, 1, T, T], added to attention's scores: for earlier tokens of the same document the logarithm of how many each counts for, else minus infinity."""
    length = documents.shape[1]
    seen = (documents[:, :, None] == documents[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    return crowd.log()[:, None, :].expand(seen.shape).masked_fill(~seen, -math.inf)[:, None]


def weigh(chosen, weight):
    """chosen [B, T]: which tokens carry loss; weight [B, T] by stream -> weight, more for the first tokens of a turn."""
    count = chosen.long().cumsum(1)
    before = torch.where(chosen, 0, count).cummax(1).values   # tokens with loss before this turn
    return weight * torch.where(chosen & (count - before <= FIRST_TOKENS), FIRST_WEIGHT, 1.0)


def asked_tokens(out):
    """The file `tokens` in the run's folder, where there is one, changes the length of the run under way."""
    file = out / "tokens"
    return int(file.read_text()) if file.exists() else 0


def schedule(progress, decay):
    if progress < WARM_UP:
        return max(0.05, progress / WARM_UP)
    return 1.0 if progress < 1 - decay else max(0.02, (1 - progress) / decay)


class Workers:
    """The processes of one run: this one forks the others. Gradients are averaged in shared memory through gloo."""
    def __init__(self, size):
        self.size, self.rank = size, 0
        if size == 1:
            return
        rendezvous = tempfile.mktemp(prefix="understudy-train-")
        for rank in range(1, size):
            if os.fork() == 0:
                self.rank = rank
                break
        torch.distributed.init_process_group("gloo", init_method="file://" + rendezvous, rank=self.rank, world_size=size)

    def average(self, parameters):
        if self.size > 1:
            flat = torch.cat([p.grad.reshape(-1) for p in parameters])
            torch.distributed.all_reduce(flat)
            flat /= self.size
            for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
                p.grad.copy_(part.view_as(p))

    def sum(self, tensor):
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, flag):
        return bool(self.sum(torch.tensor(float(flag)))) if self.size > 1 else flag

    def gather(self, value):
        values = [value] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def say(self, *words):
        if self.rank == 0:
            print(*words, flush=True)


class Packer:
    """Rows of whole documents; what is left at the end of a row is filled with cut code."""
    def __init__(self, folder, seed):
        self.rng = numpy.random.default_rng(seed)
        self.names = sorted(p.stem for p in folder.glob("*.npz"))
        self.data = {name: dict(numpy.load(folder / f"{name}.npz")) for name in self.names}
        self.next = {name: 0 for name in self.names}
        self.order = {name: self.rng.permutation(len(d["offsets"]) - 1) for name, d in self.data.items()}
        self.used = {name: 0 for name in self.names}
        self.pool = {name: [] for name in self.names}

    def state(self):
        return {"rng": self.rng.bit_generator.state, "next": self.next, "order": self.order, "used": self.used, "pool": self.pool}

    def restore(self, state):
        self.rng.bit_generator.state = state["rng"]
        for part in ("next", "order", "used", "pool"):
            getattr(self, part).update(state[part])

    def document(self, name, space, length):
        """(tokens, mask) of the longest waiting document that fits, or at the beginning of a row the one that has waited longest, its end if it is too long; None where none fits."""
        pool, data = self.pool[name], self.data[name]
        while len(pool) < POOL:
            if self.next[name] >= len(self.order[name]):
                self.next[name], self.order[name] = 0, self.rng.permutation(len(self.order[name]))
            pool.append(int(self.order[name][self.next[name]]))
            self.next[name] += 1
        sizes = [data["offsets"][at + 1] - data["offsets"][at] for at in pool]
        if space == length or name in ("code", "fim"):
            chosen = 0
        else:
            chosen = max(range(POOL), key=lambda i: sizes[i] if sizes[i] <= space else -1)
            if sizes[chosen] > space:
                return None
        at = pool.pop(chosen)
        ids, loss = (data[part][data["offsets"][at]:data["offsets"][at + 1]] for part in ("tokens", "mask"))
        return (ids[:space], loss[:space]) if name in ("code", "fim") else (ids[-length:], loss[-length:])

    def batch(self, rows, length, mix):
        """tokens, which carry loss, stream [rows, length + 1]; position, document within the row, how many it counts for [rows, length]"""
        tokens = numpy.zeros((rows, length + 1), dtype=numpy.int64)
        mask, streams = numpy.zeros((rows, length + 1), dtype=bool), numpy.zeros((rows, length + 1), dtype=numpy.int8)
        documents = numpy.zeros((rows, length + 1), dtype=numpy.int16)
        positions = numpy.zeros((rows, length), dtype=numpy.int64)
        crowd = numpy.ones((rows, length), dtype=numpy.float32)
        for row in range(rows):
            at, boundaries = 0, []
            together = length >= LONG_ROW or self.rng.random() < TOGETHER
            while at < length + 1:
                total = sum(self.used[n] for n in mix) + 1
                behind = sorted(mix, key=lambda n: self.used[n] / total - mix[n])
                space = length + 1 - at
                found = next(((n, d) for n in behind[:4] if (d := self.document(n, space, length + 1))), None)
                name, (ids, loss) = found or ("code", self.document("code", space, length + 1))
                count = len(ids)
                boundaries.append(at)
                tokens[row, at:at + count], mask[row, at:at + count] = ids, loss
                mask[row, at] = False
                streams[row, at:at + count] = self.names.index(name)
                documents[row, at:at + count] = 0 if together else len(boundaries)
                self.used[name] += count
                at += count
            positions[row] = self.positions(length, boundaries)
            if length >= LONG_ROW and self.rng.random() < 0.8:
                crowd[row, :int(length * self.rng.uniform(0.2, 0.85))] = math.exp(self.rng.uniform(0, math.log(CROWD_MAX)))
        # Shares are kept over a window, so that a new phase's mix takes hold at once.
        for name in self.used:
            self.used[name] *= 0.9
        return (*map(torch.from_numpy, (tokens, mask, streams, positions)), torch.from_numpy(documents[:, :-1].copy()), torch.from_numpy(crowd))

    def positions(self, length, boundaries):
        """Ascending positions below POSITIONS: as they are, shifted, or with gaps (as in PoSE), so that far positions and far distances are seen."""
        steps = numpy.ones(length, dtype=numpy.int64)
        steps[0] = 0
        draw = self.rng.random()
        if draw > 0.6:
            places = [b for b in boundaries if b and self.rng.random() < 0.5] + [int(self.rng.integers(1, length)) for _ in range(self.rng.integers(0, 4))]
            for place in places:
                steps[min(place, length - 1)] += int(math.exp(self.rng.uniform(0, math.log(20_000))))
        positions = numpy.cumsum(steps)
        if positions[-1] >= POSITIONS:
            positions = numpy.cumsum(numpy.minimum(steps, (POSITIONS - length) // (len(steps[steps > 1]) + 1)))
        if draw > 0.25:
            positions = positions + int(self.rng.integers(0, POSITIONS - positions[-1]))
        return positions


class Muon:
    """Momentum, then the nearest semi-orthogonal matrix by Newton-Schulz (Jordan et al. 2024). Matrices of one shape go together."""
    def __init__(self, parameters, world):
        self.groups, self.world = {}, world
        for p in parameters:
            self.groups.setdefault(tuple(sorted(p.shape)), []).append(p)
        self.momentum = [torch.zeros_like(p) for group in self.groups.values() for p in group]

    def state_dict(self):
        return {"momentum": self.momentum}

    def load_state_dict(self, state):
        self.momentum = state["momentum"]

    @torch.no_grad()
    def step(self, rate, beta):
        momentum = iter(self.momentum)
        for group in self.groups.values():
            updates = []
            for p in group:
                m = next(momentum)
                m.lerp_(p.grad, 1 - beta)
                u = p.grad.lerp(m, beta)
                updates.append(u if u.shape[0] <= u.shape[1] else u.T)
            every = torch.zeros(len(updates), *updates[0].shape)
            mine = slice(self.world.rank, None, self.world.size)
            x = torch.stack(updates)[mine]
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for a, b, c in ((3.4445, -4.7750, 2.0315),) * 4:
                s = x @ x.mT
                x = a * x + (b * s + c * (s @ s)) @ x
            every[mine] = x
            x = self.world.sum(every)
            for p, u in zip(group, x):
                u = u if p.shape[0] <= p.shape[1] else u.T
                p.add_(u, alpha=-rate * max(1, p.shape[0] / p.shape[1]) ** 0.5)


if __name__ == "__main__":
    main()
