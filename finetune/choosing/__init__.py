"""Runs chosen by what demonstrations say of them, without a reward: `medgemma-finetune choose`."""
