"""Episodes on disk: values, their Arrow columns, the journal while recording, Parquet shards afterwards."""
