"""The Hugging Face backend: any `AutoModelForImageTextToText` checkpoint with its processor, through sessions of rows."""
