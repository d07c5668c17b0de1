"""A local mirror of the services that datasets are made from: for tests, and for machines without the web.

``Mirror(folder)`` serves ``folder/SERVICE/…`` at ``http://127.0.0.1:PORT/SERVICE/…``, in the shape of the real service.
With ``GEOSHARDS_MIRROR`` set to the mirror's URL, every client here asks the mirror instead.

A service is one module with one function of type `pipeline.mirror.messages.Service`::

    def respond(request: Request) -> Response | None

It answers a GET or HEAD request from what lies in ``request.folder`` (its own folder, to be filled by hand or by a
test, with a manifest where file names do not say enough); ``request.path`` is the path below the service's base URL,
``request.base`` that base URL, for links in documents; None means 404. It holds no state but caches, is called from
many threads at a time, and takes no path from a request without looking it up in what the folder holds. Ranges,
conditions, HEAD and dates of a `Response` that is a file are the server's business. A new service is entered in
`pipeline.mirror.server.SERVICES`, under the name that its base URL has in `pipeline.net.config.DEFAULT_BASES`; those of
`pipeline.imagery.stac.presets.PRESETS` are there already.
"""
