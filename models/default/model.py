"""The network: qwen3 architecture in PyTorch, as llama.cpp computes it. It knows nothing of data or files."""
import dataclasses

import torch
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
        self.o = matrix(c.hidden, c.heads * c.head, 0.5)
        self.gate, self.up = matrix(c.feed_forward, c.hidden), matrix(c.feed_forward, c.hidden)
        self.down = matrix(c.hidden, c.feed_forward, 0.5)

    def forward(self, x, rope):
        c = self.c
        batch, length, _ = x.shape
        h = F.rms_norm(x, (c.hidden,), self.attention_norm, c.epsilon)
        q = F.linear(h, self.q).view(batch, length, c.heads, c.head)
        k = F.linear(h, self.k).view(batch, length, c.kv_heads, c.head)
        v = F.linear(h, self.v).view(batch, length, c.kv_heads, c.head)
        q = rotate(F.rms_norm(q, (c.head,), self.q_norm, c.epsilon), rope).transpose(1, 2)
        k = rotate(F.rms_norm(k, (c.head,), self.k_norm, c.epsilon), rope).transpose(1, 2)
        k = k.repeat_interleave(c.heads // c.kv_heads, 1)
        v = v.transpose(1, 2).repeat_interleave(c.heads // c.kv_heads, 1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(a.transpose(1, 2).reshape(batch, length, -1), self.o)
        h = F.rms_norm(x, (c.hidden,), self.ffn_norm, c.epsilon)
        return x + F.linear(F.silu(F.linear(h, self.gate)) * F.linear(h, self.up), self.down)


class Model(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = torch.nn.Parameter(torch.randn(config.vocabulary, config.hidden) * 0.02)
        self.layers = torch.nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = torch.nn.Parameter(torch.ones(config.hidden))

    def forward(self, tokens, rope):
        """tokens [B, T], rope [B, T, head] (cos then sin) -> normalised states [B, T, hidden]"""
        x = F.embedding(tokens, self.embedding)
        for layer in self.layers:
            x = layer(x, rope)
        return F.rms_norm(x, (self.config.hidden,), self.norm, self.config.epsilon)


def matrix(rows, columns, gain=1.0):
    return torch.nn.Parameter(torch.randn(rows, columns) * gain * columns ** -0.5)


def rotate(x, rope):
    """Rotates halves (NeoX order): x [B, T, heads, head], rope [B, T, head]"""
    cosine, sine = rope.unsqueeze(2).chunk(2, -1)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)
