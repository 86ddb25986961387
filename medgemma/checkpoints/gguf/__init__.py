"""Checkpoints as llama.cpp, Ollama and LM Studio read them: GGUF files, written with the maintained `gguf` package."""
