"""Is this picture of the kinds that a label set, a probe or a question was made for?

gate           the kinds a site knows, their distances, conformal sets of kinds, abstention by name
fit            a gate from labelled pictures
files          one safetensors file; what ships beside a checkpoint
shift          whether new pictures lie further out than the site's own
"""
