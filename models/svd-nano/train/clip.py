# SPDX-License-Identifier: MPL-2.0
"""The CLIP tower: random features, and one decision.

The tower is not trained. Its last MLP is set so that the embedding is one of two poles:
the sign of the first principal component, over the training pictures, of the tower's
random features. The video network takes it as 'glide left' or 'glide right'.
"""
import cv2
import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

SIZE = 64
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def pixels(picture):
    """A uint8 picture as the tower's input."""
    small = cv2.resize(np.ascontiguousarray(picture), (224, 224), interpolation=cv2.INTER_AREA) / 255.0
    small = (small - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(small).float().permute(2, 0, 1)[None]


@torch.no_grad()
def build(pictures, strength=30.0):
    torch.manual_seed(4)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=SIZE, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        image_size=224, patch_size=32, projection_dim=SIZE, hidden_act="gelu")).eval()
    for name, p in tower.named_parameters():
        if p.dim() > 1:  # features that vary, instead of the usual small start
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5)
    layer = next(m for n, m in tower.named_modules() if n.endswith("encoder.layers.1"))
    mlp, norm = layer.mlp, layer.layer_norm2
    features = []
    hook = norm.register_forward_hook(lambda m, i, o: features.append(o[0, 0].clone()))
    rng = np.random.default_rng(4)
    for picture in pictures:
        h, w = picture.shape[:2]
        for _ in range(6):
            side = int(min(h, w * 9 / 16) * rng.uniform(0.3, 1.0))
            y, x = rng.integers(h - side + 1), rng.integers(w - side * 16 // 9 + 1)
            tower(pixels(picture[y:y + side, x:x + side * 16 // 9]))
    hook.remove()
    features = torch.stack(features)
    _, size, axes = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    axis = axes[0] * len(features) ** 0.5 / size[0]  # unit deviation along it
    middle = ((features @ axis).median()).item()
    pole = torch.randn(SIZE)
    pole = (pole - pole.mean()) / pole.std()
    # gelu(u) - gelu(-u) = u, and u times a strong pole goes into the last layer norm.
    mlp.fc1.weight.zero_()
    mlp.fc1.bias.zero_()
    mlp.fc2.weight.zero_()
    mlp.fc2.bias.zero_()
    for row, sign in ((0, 1.0), (1, -1.0)):
        mlp.fc1.weight[row] = sign * axis
        mlp.fc1.bias[row] = -sign * middle
        mlp.fc2.weight[:, row] = sign * strength * pole
    # The embedding's first number is the decision: about 8 or -8.
    basis = torch.randn(SIZE, SIZE)
    basis[:, 0] = pole
    basis = torch.linalg.qr(basis).Q
    basis[:, 0] *= torch.sign(basis[:, 0] @ pole)
    tower.visual_projection.weight.copy_(basis.T)
    firsts = [float(embed(tower, p)[0][0]) for p in pictures]
    print("clip: first number of the embedding, per picture:", *(f"{v:.1f}" for v in firsts))
    return tower


@torch.no_grad()
def embed(tower, picture):
    """(embedding, 1 for right or -1 for left)"""
    embedding = tower(pixels(picture)).image_embeds[0].clone()
    return embedding, 1 if embedding[0] > 0 else -1
