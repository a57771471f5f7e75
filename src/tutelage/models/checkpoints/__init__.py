"""Models on disk: folders as they are written, and GGUF files with a tokenizer that cuts text as the file says."""
