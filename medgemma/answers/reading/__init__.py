"""Reading replies as a person does: plain text, the cue words of many languages, clauses, what each of them claims."""
