"""The service: what agents on boards, and whoever asks for measurements, talk to over HTTP."""

from search.service.app import create_app
from search.service.client import list_agents, list_devices_at, open_on_agent, request_profile
from search.service.serve import serve

__all__ = ["create_app", "list_agents", "list_devices_at", "open_on_agent", "request_profile", "serve"]
