"""The Hugging Face backend: any `AutoModelForImageTextToText` checkpoint with its processor, as sessions of rows."""
