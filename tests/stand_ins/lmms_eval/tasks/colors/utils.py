def text(doc):
    return doc["question"]
