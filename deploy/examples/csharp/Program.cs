// A camera's stream in C#: dotnet run -- http://127.0.0.1:8081 gasket part1.png part2.png …
//
// One InspectStream for all pictures, with a deadline and a decision for each. Only what the service refused
// with a time to retry is sent once more. The gate must eject every part without a decision: this program does
// not notice a service that does not answer.
//
// Exit status: 0 all OK, 3 something NG or REVIEW, 1 something was not inspected.
//
// Not part of the test suite. Compiled as C# 12 for .NET 8 and run against the service, but with a stand-in for
// Grpc.Net.Client: Camera.csproj, with the packages it names, was never built.

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

var pictures = args[2..];
var undecided = Enumerable.Range(0, pictures.Length).ToDictionary(number => $"{number}"); // by frame id; locked
var status = 0;
var decided = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously); // all of them
var waiting = new ConcurrentDictionary<string, (InspectRequest Request, Stopwatch Since, bool Again)>();
using var stream = client.InspectStream(headers);
var writing = new SemaphoreSlim(1); // a call's writes must not overlap

async Task SendAsync(InspectRequest request, Stopwatch since, TimeSpan? retryAfter = null)
{
    await Task.Delay(retryAfter ?? TimeSpan.Zero);
    waiting[request.FrameId] = (request, since, retryAfter != null);
    await writing.WaitAsync();
    try
    {
        request.DeadlineMs = (uint)Math.Max(1, TaktMs - since.ElapsedMilliseconds);
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

void Decide(string frameId, string decision, int its)
{
    lock (undecided)
    {
        if (!undecided.Remove(frameId, out var number))
        {
            return;
        }
        status = status == 1 || its == 0 ? status : its;
        Console.WriteLine($"{pictures[number]}: {decision}");
        if (undecided.Count == 0)
        {
            decided.SetResult();
        }
    }
}

void NotInspected(string frameId, string reason) => Decide(frameId, $"not inspected: {reason}", 1);

async Task ReadAsync()
{
    while (await stream.ResponseStream.MoveNext(CancellationToken.None))
    {
        var response = stream.ResponseStream.Current;
        if (!waiting.TryRemove(response.FrameId, out var sent))
        {
            continue;
        }
        var elapsed = sent.Since.ElapsedMilliseconds;
        if (response.OutcomeCase == InspectStreamResponse.OutcomeOneofCase.Result && elapsed <= TaktMs)
        {
            var (verdict, score) = (response.Result.Verdict, response.Result.Score);
            Decide(response.FrameId, $"{verdict} {score:F2} in {elapsed} ms", verdict == "OK" ? 0 : 3);
        }
        else if (response.OutcomeCase == InspectStreamResponse.OutcomeOneofCase.Error
                 && !sent.Again && RetryDelay(response.Error) is { } delay
                 && elapsed + delay.TotalMilliseconds < TaktMs)
        {
            _ = SendAsync(sent.Request, sent.Since, delay); // if it fails, so does reading
        }
        else
        {
            // A late answer is discarded: the part is not passed.
            NotInspected(response.FrameId, response.Error?.Message ?? "too late");
        }
    }
}

var reading = ReadAsync();
try
{
    for (var number = 0; number < pictures.Length; number++)
    {
        var frameId = $"{number}"; // a file's name may be given twice, or not be ASCII
        ByteString image;
        try
        {
            image = ByteString.CopyFrom(await File.ReadAllBytesAsync(pictures[number]));
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            NotInspected(frameId, error.Message);
            continue;
        }
        var request = new InspectRequest
        {
            Image = image, Product = args[1], FrameId = frameId, Include = { "regions" },
        };
        await SendAsync(request, Stopwatch.StartNew());
    }
}
catch (Exception error) when (error is RpcException or IOException)
{
    // The stream ended or broke. Answers that have arrived still count, and reading says why it ended.
}
var ended = "the stream ended";
try
{
    await Task.WhenAny(decided.Task, reading);
    await writing.WaitAsync(); // an answer may come before its write returns
    await stream.RequestStream.CompleteAsync();
    await reading;
}
catch (RpcException error)
{
    // After UNAVAILABLE with RetryInfo open a new stream; parts without a decision were not inspected. A real
    // program does so here; this example stops.
    ended = $"{error.Status.StatusCode} {error.Status.Detail}";
}
for (var number = 0; number < pictures.Length; number++)
{
    NotInspected($"{number}", ended); // unless it is decided
}
return status;
