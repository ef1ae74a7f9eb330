"""The torch side: tokenizer, batches and label masks, training, checkpoints, launch, sampling.

The only room that imports torch, transformers, accelerate and peft; never imports
`alpaca_cli.data`.
"""
