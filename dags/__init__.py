"""Graphs of steps, described once: run here or on Ray (``geoshards dag run``), drawn (``dag show``), run by Airflow.

A step is one command of the product's own; nothing here imports pipeline or trainers.
"""
