"""Which models there are, where their files are, and the encoders: pixels and prompts -> vectors."""
