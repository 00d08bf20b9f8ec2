"""The network: qwen3 architecture in PyTorch, as llama.cpp computes it. It knows nothing of data or files."""
import dataclasses

import numpy, torch
import torch.nn.functional as F


@dataclasses.dataclass
class Config:
    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head: int = 64
    feed_forward: int = 768
    rope_theta: float = 1e6
    epsilon: float = 1e-6


def rope_table(config, positions_max):
    frequencies = config.rope_theta ** (-torch.arange(0, config.head, 2, dtype=torch.float64) / config.head)
    angles = torch.outer(torch.arange(positions_max, dtype=torch.float64), frequencies)
    return torch.cat([angles.cos(), angles.sin()], -1).float()


class Layer(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.attention_norm, self.ffn_norm = torch.nn.Parameter(torch.ones(c.hidden)), torch.nn.Parameter(torch.ones(c.hidden))
        self.q_norm, self.k_norm = torch.nn.Parameter(torch.ones(c.head)), torch.nn.Parameter(torch.ones(c.head))
        self.q = matrix(c.heads * c.head, c.hidden)
        self.k = matrix(c.kv_heads * c.head, c.hidden)
        self.v = matrix(c.kv_heads * c.head, c.hidden)
        self.o = torch.nn.Parameter(torch.zeros(c.hidden, c.heads * c.head))
        self.gate, self.up = matrix(c.feed_forward, c.hidden), matrix(c.feed_forward, c.hidden)
        self.down = torch.nn.Parameter(torch.zeros(c.hidden, c.feed_forward))

    def forward(self, x, rope, visible):
        c = self.c
        batch, length, _ = x.shape
        h = F.rms_norm(x, (c.hidden,), self.attention_norm, c.epsilon)
        q = linear(h, self.q).view(batch, length, c.heads, c.head)
        k = linear(h, self.k).view(batch, length, c.kv_heads, c.head)
        v = linear(h, self.v).view(batch, length, c.kv_heads, c.head)
        q = rotate(F.rms_norm(q, (c.head,), self.q_norm, c.epsilon), rope).transpose(1, 2)
        k = rotate(F.rms_norm(k, (c.head,), self.k_norm, c.epsilon), rope).transpose(1, 2)
        k = k.repeat_interleave(c.heads // c.kv_heads, 1)
        v = v.transpose(1, 2).repeat_interleave(c.heads // c.kv_heads, 1)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + linear(a.transpose(1, 2).reshape(batch, length, -1), self.o)
        h = F.rms_norm(x, (c.hidden,), self.ffn_norm, c.epsilon)
        return x + linear(F.silu(linear(h, self.gate)) * linear(h, self.up), self.down)


class Model(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        # Large embeddings and a small final norm: the token stays readable in every layer, and the logits begin small all the same.
        self.embedding = torch.nn.Parameter(torch.randn(config.vocabulary, config.hidden) * 0.4)
        self.layers = torch.nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = torch.nn.Parameter(torch.full((config.hidden,), 0.1))
        begin_with_induction(self)

    def forward(self, tokens, rope, visible):
        """tokens [B, T], rope [B, T, head] (cos then sin), visible [B, 1, T, T] (added to the scores) -> normalised states [B, T, hidden]"""
        x = F.embedding(tokens, self.embedding)
        for layer in self.layers:
            x = layer(x, rope, visible)
        return F.rms_norm(x, (self.config.hidden,), self.norm, self.config.epsilon)


@torch.no_grad()
def begin_with_induction(model):
    """Starts two heads as the circuit that copies (Olsson et al. 2022), which a run this short would hardly find by itself.

    Layer 0, head 2 looks at the previous token: its query and key depend only on position, through dimension 0, which
    every embedding holds constant (a constant that shifts all logits alike). It writes that token into 28 directions
    `previous`. Layer 1, head 2 compares the present token with them, in the slowly turning half of RoPE, and copies
    what it finds. All of it is trained on like any other weight.
    """
    c = model.config
    assert c.heads == 4 and c.kv_heads == 2 and c.head == 64 and c.layers >= 2
    half, slow = c.head // 2, list(range(18, 32))
    model.embedding[:, 0] = 1.2
    basis = torch.linalg.qr(torch.randn(c.hidden - 1, c.hidden - 1))[0]
    basis = torch.cat([torch.zeros(c.hidden - 1, 1), basis], 1)   # orthonormal rows that do not touch dimension 0
    present, previous, copied = basis[:28], basis[28:56], basis[56:120]
    first, second = model.layers[0], model.layers[1]
    q, kv = slice(2 * c.head, 3 * c.head), slice(c.head, 2 * c.head)

    energy = torch.tensor([4.0, 3, 2] + [1] * 7) / 16
    turn = c.rope_theta ** (-torch.arange(10) * 2 / c.head)
    query, key = torch.zeros(c.head), torch.zeros(c.head)
    key[:10] = energy.sqrt()
    query[:10], query[half:half + 10] = energy.sqrt() * turn.cos(), -energy.sqrt() * turn.sin()   # one position back
    first.q[q], first.k[kv] = 0, 0
    first.q[q, 0], first.k[kv, 0] = 3 * query, 3 * key
    for norm in (first.q_norm, first.k_norm):
        norm[:10], norm[half:half + 10] = 1.94, 1.94
    first.v[kv] = 0
    first.v[c.head:c.head + 28] = present
    first.o[:, 2 * c.head:2 * c.head + 28] = previous.T * 0.9

    places = slow + [half + f for f in slow]
    second.q[q], second.k[kv] = 0, 0
    second.q[[2 * c.head + p for p in places]] = present
    second.k[[c.head + p for p in places]] = previous
    for norm in (second.q_norm, second.k_norm):
        norm[places] = 1.58
    second.v[kv] = copied
    second.o[:, q] = copied.T * 0.6


class Linear(torch.autograd.Function):
    """x [T, K], w [N, K] -> x w' [T, N], by numpy's BLAS: on 2 cores of Zen 3, one thread each, OpenBLAS ran at 74 to 80 GFLOP/s, PyTorch's at 50 to 75."""
    @staticmethod
    def forward(context, x, w):
        context.save_for_backward(x, w)
        return product(x, w.T)

    @staticmethod
    def backward(context, gradient):
        x, w = context.saved_tensors
        return product(gradient, w), product(gradient.T, x)


def product(a, b):
    out = torch.empty(a.shape[0], b.shape[1])
    numpy.matmul(a.detach().numpy(), b.detach().numpy(), out=out.numpy())
    return out


def linear(x, w):
    return Linear.apply(x.reshape(-1, x.shape[-1]), w).view(*x.shape[:-1], -1)


def matrix(rows, columns, gain=1.0):
    return torch.nn.Parameter(torch.randn(rows, columns) * gain * columns ** -0.5)


def rotate(x, rope):
    """Rotates halves (NeoX order): x [B, T, heads, head], rope [B, T, head]"""
    cosine, sine = rope.unsqueeze(2).chunk(2, -1)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)
