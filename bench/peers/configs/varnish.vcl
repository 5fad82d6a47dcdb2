# Varnish: store what is not under /pass, whoever asks; the rest is in the parameters of its command line.
vcl 4.1;

backend default {
    .host = "127.0.0.1";
    .port = "{{origin}}";
    .max_connections = 2000;
}

sub vcl_recv {
    # The built-in rules would pass whatever has an Authorization.
    if (req.url ~ "^/pass/") {
        return (pass);
    }
@storm     # A mutation: what is stored of its URL goes, then the request goes on to the origin.
@storm     if (req.method == "PUT") {
@storm         if (req.restarts == 0) {
@storm             set req.http.x-method = "PUT";
@storm             return (purge);
@storm         }
@storm     }
@storm     if (req.restarts > 0 && req.http.x-method) {
@storm         set req.method = req.http.x-method;
@storm         unset req.http.x-method;
@storm         return (pass);
@storm     }
    return (hash);
}

sub vcl_hash {
    # One host: its name would only be hashed for nothing.
    hash_data(req.url);
    return (lookup);
}
@storm
@storm sub vcl_purge {
@storm     return (restart);
@storm }
