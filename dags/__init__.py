"""Descriptions of graphs, for schedulers: which command follows which. One build's own stages are pipeline.driver's."""
