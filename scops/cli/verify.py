"""`scops verify FOLDER`: is the folder whole, and does it say what it should."""

from pathlib import Path

import torch

from scops.checkpoints.read import open_weights
from scops.cli.show import as_json
from scops.data.tokenizer import Tokenizer
from scops.lab.verify import Finding, check_golden, check_weights, found
from scops.model.empty import empty
from scops.model.folder import OWN, generation_config, read_config, recorded_layout, told
from scops.model.opening import load
from scops.systems import module_of


def verify(folder: Path, *, golden: Path | None, json: bool) -> bool:
    """Prints every check; returns whether all are good."""
    findings = look(folder, golden)
    good = all(finding.good for finding in findings)
    if json:
        as_json({"folder": str(folder), "good": good, "checks": [vars(finding) for finding in findings]})
        return good
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'BAD '} {finding.check:<10} {finding.says}")
    print("everything fits" if good else f"{sum(not f.good for f in findings)} of {len(findings)} checks failed")
    return good


def look(folder: Path, golden: Path | None = None) -> list[Finding]:
    """All checks that can be made; a folder without a readable config gets no further than that."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give a model's folder")
    kept: dict = {}

    def look_at_config() -> str:
        config = kept["config"] = read_config(folder)
        return f"{config.system}{f' ({config.size})' if config.size else ''} in the {config.layout} layout"

    def look_at_tokenizer() -> str:
        tokenizer, config = Tokenizer.from_folder(folder), kept["config"]
        spec = told(config, tokenizer)
        kept["spec"] = spec
        kept["module"] = empty(config.system, spec, tokenizer, torch.float32, config.lora, config.quantised)
        stops = generation_config(module_of(config.system).layout(spec), tokenizer)["eos_token_id"]
        return f"{tokenizer.vocab_size} tokens, {len(tokenizer.specials)} special, stops at {stops}"

    def look_at_processor() -> str:
        layout = recorded_layout(folder, module_of(kept["config"].system).layout(kept["spec"]))
        return f"pictures as the system prepares them: {', '.join(layout.media) or 'none, text alone'}"

    findings = [found("config", look_at_config)]
    if not findings[0].good:
        return findings
    findings.append(found("tokenizer", look_at_tokenizer))
    if findings[1].good:
        findings.append(found("processor", look_at_processor))
    findings += _weights(folder, kept)
    if golden is not None and all(finding.good for finding in findings):
        findings.append(found("golden", lambda: check_golden(golden, load(folder).module)))
    return findings


def _weights(folder: Path, kept: dict) -> list[Finding]:
    def look_at_file() -> str:
        kept["reader"] = open_weights(folder)
        return f"{kept['reader'].path.name}: {kept['reader'].kind}"

    findings = [found("weights", look_at_file)]
    if findings[0].good and "module" in kept:
        config = kept["config"]
        keys = None if config.layout == OWN else module_of(config.system).KEYS[config.layout](kept["spec"])
        findings += check_weights(kept["reader"], keys, kept["module"])
    return findings
