// A camera's stream in C#: dotnet run -- http://127.0.0.1:8081 gasket part1.png part2.png …
//
// One InspectStream for all pictures, with a deadline and an outcome for each. Only what the service refused
// with a time to retry is sent once more. The gate must eject every part without a decision: this program does
// not notice a service that does not answer.
//
// Not compiled by the test suite, which only checks its syntax, and the names of messages and fields against
// proto/inspection.proto.

using System.Collections.Concurrent;
using System.Diagnostics;
using Drd.Inspection.V1;
using Google.Protobuf;
using Google.Rpc;
using Grpc.Core;
using Grpc.Net.Client;

const uint TaktMs = 200;

if (args.Length < 3)
{
    Console.Error.WriteLine("usage: Camera http(s)://HOST:PORT PRODUCT PICTURE...");
    return 2;
}

using var channel = GrpcChannel.ForAddress(args[0], new GrpcChannelOptions { MaxReceiveMessageSize = null });
var client = new InspectionService.InspectionServiceClient(channel);
var headers = new Metadata();
if (Environment.GetEnvironmentVariable("DRD_TOKEN") is { Length: > 0 } token)
{
    headers.Add("authorization", $"Bearer {token}");
}

var waiting = new ConcurrentDictionary<string, (InspectRequest Request, Stopwatch Since, bool Again)>();
using var stream = client.InspectStream(headers);
var writing = new SemaphoreSlim(1); // a call's writes must not overlap
var allOk = true;
var left = args.Length - 2;

async Task SendAsync(InspectRequest request, Stopwatch since, bool again)
{
    waiting[request.FrameId] = (request, since, again);
    request.DeadlineMs = (uint)Math.Max(1, TaktMs - since.ElapsedMilliseconds);
    await writing.WaitAsync();
    try
    {
        await stream.RequestStream.WriteAsync(request);
    }
    finally
    {
        writing.Release();
    }
}

static TimeSpan? RetryDelay(Google.Rpc.Status error)
{
    foreach (var detail in error.Details)
    {
        if (detail.TryUnpack<RetryInfo>(out var retry))
        {
            return retry.RetryDelay.ToTimeSpan();
        }
    }
    return null;
}

void Decide(string part, string decision, bool ok)
{
    allOk &= ok;
    left--;
    Console.WriteLine($"{part}: {decision}");
}

var reading = Task.Run(async () =>
{
    while (left > 0 && await stream.ResponseStream.MoveNext(CancellationToken.None))
    {
        var response = stream.ResponseStream.Current;
        if (!waiting.TryRemove(response.FrameId, out var sent))
        {
            continue;
        }
        var elapsed = sent.Since.ElapsedMilliseconds;
        if (response.OutcomeCase == InspectStreamResponse.OutcomeOneofCase.Result && elapsed <= TaktMs)
        {
            var result = response.Result;
            Decide(response.FrameId, $"{result.Verdict} {result.Score:F2} in {elapsed} ms", result.Verdict == "OK");
        }
        else if (response.OutcomeCase == InspectStreamResponse.OutcomeOneofCase.Error
                 && !sent.Again && RetryDelay(response.Error) is { } delay
                 && elapsed + delay.TotalMilliseconds < TaktMs)
        {
            _ = Task.Delay(delay).ContinueWith(_ => SendAsync(sent.Request, sent.Since, true)).Unwrap();
        }
        else
        {
            // A late answer is discarded: the part is not passed.
            Decide(response.FrameId, $"not inspected: {response.Error?.Message ?? "too late"}", false);
        }
    }
});

try
{
    foreach (var (path, number) in args[2..].Select((path, number) => (path, number)))
    {
        await SendAsync(
            new InspectRequest
            {
                Image = ByteString.CopyFrom(await File.ReadAllBytesAsync(path)),
                Product = args[1],
                FrameId = $"{number}-{Path.GetFileName(path)}", // two pictures may have one name
                Include = { "regions" },
            },
            Stopwatch.StartNew(),
            again: false);
    }
    await reading;
    await stream.RequestStream.CompleteAsync();
}
catch (RpcException error)
{
    // The stream ended or broke. After UNAVAILABLE with RetryInfo open a new one; parts in `waiting` were not
    // inspected. A real program does so here; this example stops.
    Console.Error.WriteLine($"{waiting.Count} not inspected: {error.Status.StatusCode} {error.Status.Detail}");
    return 1;
}
return allOk && left == 0 ? 0 : 3; // the service may have ended the stream
